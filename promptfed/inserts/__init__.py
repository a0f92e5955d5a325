"""What is trained beside a frozen language model, a file for each kind, in PEFT's layout and by PEFT's names."""

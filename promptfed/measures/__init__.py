"""What test figures there are besides accuracy; one file for each measure."""

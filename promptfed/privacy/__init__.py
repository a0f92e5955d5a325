"""What limits or hides what an update can say about one client: clipping, and sums of updates that nobody sees."""

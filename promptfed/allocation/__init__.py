"""Virtual reality over a radio cell: who gets which resolution and which share of the bandwidth."""

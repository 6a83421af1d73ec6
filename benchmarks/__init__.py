"""What agentix measures about itself: each module prints its figures as a table and can be run alone."""

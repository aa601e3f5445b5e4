"""Reading, sampling and augmenting videos and volumes."""

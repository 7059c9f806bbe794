"""Records of runs, and the leaderboards that are generated from them."""

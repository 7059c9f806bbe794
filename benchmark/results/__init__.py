"""Run records and the pages generated from them."""

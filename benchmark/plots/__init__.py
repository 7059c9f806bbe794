"""The style, the labels and the web pages that results, comparison and inspection share."""

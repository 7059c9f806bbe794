"""Numbered notes below a table."""


class Notes:
    """Collects notes; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """The superscript that refers to the note `text`."""
        if text not in self.texts:
            self.texts.append(text)
        # GitHub's own footnotes ([^1]) are plain brackets everywhere else; this is a superscript everywhere.
        return f" <sup>{self.texts.index(text) + 1}</sup>"

    def lines(self) -> list[str]:
        """The notes as a numbered Markdown list."""
        return [f"{number}. {text}" for number, text in enumerate(self.texts, start=1)]

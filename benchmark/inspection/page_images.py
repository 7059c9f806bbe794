"""The images of a page, each in it once."""

import base64
import io
from pathlib import Path

from benchmark.inspection.thumbnail import thumbnail

BROKEN = "broken"


class PageImages:
    """Thumbnails as the backgrounds of CSS classes, so that any number of elements shows one without a copy of it."""

    def __init__(self) -> None:
        self._classes: dict[Path, str] = {}
        self._rules: list[str] = []

    def css_class(self, path: Path) -> str:
        """The class of elements that show this image; `BROKEN` where it cannot be decoded."""
        if path not in self._classes:
            self._classes[path] = self._add(path)
        return self._classes[path]

    def css(self) -> str:
        """The rules of all classes asked for so far."""
        return "\n".join(self._rules)

    def _add(self, path: Path) -> str:
        image = thumbnail(path)
        if image is None:
            return BROKEN
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80, optimize=True)
        name = f"i{len(self._rules)}"
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        self._rules.append(f".{name}{{background-image:url(data:image/jpeg;base64,{data})}}")
        return name

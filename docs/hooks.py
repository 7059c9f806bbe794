"""mkdocs hooks: publish the generated pages, which are outside docs/, with the documentation."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
GENERATED = ("leaderboards/**/*", "methods/README.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the leaderboards and the methods' cards under their paths in the repository."""
    for pattern in GENERATED:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links that are relative to docs/ in the repository, such as `../leaderboards/README.md`."""
    if page.file.generated_by is None:
        for folder in ("leaderboards", "methods"):
            markdown = markdown.replace(f"](../{folder}/", f"]({folder}/")
    return markdown

"""Finds a JSON's files in an archive or folder that may spell them otherwise."""

from collections.abc import Iterable

from eomt_jax.datasets.sources import Source, some
from eomt_jax.datasets.spellings import by_spelling, last_part, plain


class FileFinder:
    """Files of an archive or folder, by the names that a JSON has for them.

    A name is taken as it stands. Where the JSON has other folders than the archive,
    the last part of the name has to be one file's alone. So it is with names that differ
    in how they are spelt, see spellings.plain.
    """

    def __init__(self, source: Source):
        self.source = source
        self._by_last_part: dict[str, str | None] = {}
        self._named_by: dict[str, set[str]] = {}
        for name in source.names():
            last_part = name.rpartition("/")[2]
            is_taken = last_part in self._by_last_part
            self._by_last_part[last_part] = None if is_taken else name
        self._by_spelling = by_spelling(source.names())
        self._by_last_spelling: dict[str, str | None] = {}
        for part, name in self._by_last_part.items():
            is_taken = plain(part) in self._by_last_spelling
            self._by_last_spelling[plain(part)] = None if is_taken else name

    def find(self, file_name: str) -> str | None:
        """Returns the file's name in the source; None without any or with several."""
        if file_name in self.source:
            return file_name
        if last_part(file_name) in self._by_last_part:
            return self._by_last_part[last_part(file_name)]
        spelling = plain(file_name)
        if spelling in self._by_spelling:
            return self._by_spelling[spelling]
        return self._by_last_spelling.get(last_part(spelling))

    def is_respelt(self, file_name: str) -> bool:
        """Returns whether the file was found under a name that is spelt otherwise."""
        found = self.find(file_name)
        return found is not None and (
            "\\" in file_name or last_part(found) != last_part(file_name)
        )

    def register(self, file_names: Iterable[str]) -> None:
        """Takes down what a JSON names, used or not, for `check_all_there`."""
        for file_name in file_names:
            found = self.find(file_name)
            if found is not None:
                self._named_by.setdefault(found, set()).add(file_name)

    def read(self, file_name: str) -> bytes:
        """Returns the bytes of a file that is there."""
        return self.source.read(self.find(file_name) or file_name)

    def size(self, file_name: str) -> int:
        """Returns the bytes of a file that is there."""
        return self.source.size(self.find(file_name) or file_name)

    def order(self, file_name: str) -> int:
        """Returns the file's place in the source."""
        return self.source.order(self.find(file_name) or file_name)

    def check_all_there(self, file_names: Iterable[str], *, annotated_in: str) -> None:
        """Raises ValueError with the files that aren't there or are those of two names."""
        file_names = list(file_names)
        missing = [name for name in file_names if self.find(name) is None]
        if missing:
            raise ValueError(
                f"{annotated_in} annotates {len(missing):,} files that "
                f"{self.source.name} lacks: {some(missing)}; {self.source.source}"
            )
        for file_name in file_names:
            found = self.find(file_name)
            others = self._named_by.get(found or "", set()) - {file_name}
            if found != file_name and others:
                raise ValueError(
                    f"{annotated_in} annotates {file_name}, which {self.source.name} "
                    f"lacks: the only file of that name, {found}, is also what "
                    f"{min(others)} stands for; add the file, or correct its file_name"
                )

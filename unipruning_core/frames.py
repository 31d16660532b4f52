"""Results as tables: data frames of pandas, and what a notebook shows of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


class Tabular(ABC):
    """A result that is a table: in a notebook it is shown as one."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """Return one row a dictionary, all with the same keys in the same order."""

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows as a data frame, without an index of their own."""
        # a second of import, for those who ask
        from pandas import DataFrame

        return DataFrame.from_records(self.records())

    def _repr_html_(self) -> str:
        html: str = self.to_frame()._repr_html_()
        return html

"""Ratings of items by users: a table with holes, from a file, from triples, or made up from latent factors."""

import os
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from ..forms.sequences import as_numpy
from ..graphs.labels import first_duplicate
from .emissions.base import generator


class Ratings(eqx.Module):
    """A table of ratings.

    Args:
        table: shape (user, item), entries of `scale`, NaN or masked where a user has not rated an item.
        scale: the grades there are, rising.
        users: names of the rows; 0, 1, … by default.
        items: names of the columns; 0, 1, … by default.

    Raises:
        ValueError: a rating that is not on the scale (the user and the item are named), or names that do not fit.

    Example:
        >>> import numpy as np, chainrule as cr
        >>> ratings = cr.Ratings([[5, np.nan], [3, 1]], users=("Ann", "Bo"), items=("Brazil", "Jaws"))
        >>> ratings
        Ratings(2 users, 2 items, 3 ratings)
        >>> ratings.rated.tolist()
        [[True, False], [True, True]]
    """

    table: np.ndarray
    scale: tuple[float, ...] = eqx.field(static=True)
    users: tuple[Hashable, ...] = eqx.field(static=True)
    items: tuple[Hashable, ...] = eqx.field(static=True)

    def __init__(
        self,
        table,
        scale: Sequence[float] = (1, 2, 3, 4, 5),
        *,
        users: Sequence[Hashable] | None = None,
        items: Sequence[Hashable] | None = None,
    ):
        self.table = np.array(as_numpy(table), float)
        if self.table.ndim != 2 or not all(self.table.shape):
            raise ValueError(f"the table has shape {self.table.shape}; wanted (user, item)")
        self.scale = tuple(float(grade) for grade in scale)
        if len(self.scale) < 2 or not all(a < b for a, b in zip(self.scale, self.scale[1:], strict=False)):
            raise ValueError(f"scale is {tuple(scale)}; wanted at least two rising grades")
        self.users = _names(users, self.table.shape[0], "user")
        self.items = _names(items, self.table.shape[1], "item")
        wrong = np.argwhere(self.rated & ~np.isin(self.table, self.scale))
        if len(wrong):
            user, item = wrong[0]
            raise ValueError(
                f"user {self.users[user]!r} rated item {self.items[item]!r} {self.table[user, item]:g}, which is not on "
                f"the scale {self.scale}; give scale=…, and NaN where there is no rating"
            )

    @classmethod
    def from_triples(
        cls,
        triples: Iterable[tuple[Hashable, Hashable, float]],
        scale: Sequence[float] = (1, 2, 3, 4, 5),
        *,
        users: Sequence[Hashable] | None = None,
        items: Sequence[Hashable] | None = None,
    ) -> "Ratings":
        """The table of (user, item, rating), its users and items sorted unless they are given.

        Example:
            >>> import chainrule as cr
            >>> cr.Ratings.from_triples([("Bo", "Jaws", 1), ("Ann", "Brazil", 5)]).table.tolist()
            [[5.0, nan], [nan, 1.0]]

        Raises:
            ValueError: no ratings, one that is NaN, an item that a user rated twice, or a user or item that is not among
                those given.
        """
        triples = list(triples)
        if not triples:
            raise ValueError("there are no ratings")
        users = sorted({user for user, _, _ in triples}, key=_order) if users is None else list(users)
        items = sorted({item for _, item, _ in triples}, key=_order) if items is None else list(items)
        row, column = ({name: i for i, name in enumerate(names)} for names in (users, items))
        table = np.full((len(users), len(items)), np.nan)
        for user, item, rating in triples:
            if user not in row or item not in column:
                raise ValueError(f"the rating of {item!r} by {user!r}: one of the two is not among the names given")
            if np.isnan(rating):
                raise ValueError(
                    f"the rating of {item!r} by {user!r} is NaN: leave it out, since nothing is what is not rated"
                )
            if not np.isnan(table[row[user], column[item]]):
                raise ValueError(f"user {user!r} rated item {item!r} twice")
            table[row[user], column[item]] = rating
        return cls(table, scale, users=users, items=items)

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], scale: Sequence[float] = (1, 2, 3, 4, 5), *, separator: str = "\t"
    ) -> "Ratings":
        """Read a file of lines `user item rating …` such as MovieLens' `u.data`; what follows the rating is ignored.

        Args:
            path: the file.
            scale: the grades there are.
            separator: what stands between the fields: a tab in `u.data`, "::" in larger sets, "," in others.

        Raises:
            ValueError: a line that is not like that, with its number; or as the constructor.

        Example:
            >>> import chainrule as cr, pathlib, tempfile
            >>> lines = ("Ann,Jaws,5,881250949", "Bo,Jaws,1,881250950")  # the last field is a time
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder) / "ratings.csv"
            ...     _ = path.write_text(chr(10).join(lines))
            ...     ratings = cr.Ratings.read(path, separator=",")
            >>> ratings.users, ratings.items, ratings.table.tolist()
            (('Ann', 'Bo'), ('Jaws',), [[5.0], [1.0]])
        """
        triples, seen = [], {}
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                fields = line.rstrip("\n").split(separator)
                try:
                    user, item, rating = fields[0].strip(), fields[1].strip(), float(fields[2])
                except (IndexError, ValueError):
                    raise ValueError(
                        f"{os.fspath(path)}, line {number}: {line.strip()[:60]!r} is not user, item and rating with "
                        f"{separator!r} between them; give separator=…, and take a heading out"
                    ) from None
                if rating not in scale:
                    raise ValueError(
                        f"{os.fspath(path)}, line {number}: {rating:g} is not on the scale {tuple(scale)}; give scale=…"
                    )
                if (user, item) in seen:
                    raise ValueError(
                        f"{os.fspath(path)}, line {number}: user {user!r} rated item {item!r} already in line "
                        f"{seen[user, item]}"
                    )
                seen[user, item] = number
                triples.append((user, item, rating))
        return cls.from_triples(triples, scale)

    @classmethod
    def latent_factors(
        cls,
        key,
        num_users: int,
        num_items: int,
        *,
        factors: int = 3,
        share: float = 0.2,
        noise: float = 0.4,
        scale: Sequence[float] = (1, 2, 3, 4, 5),
    ) -> "Ratings":
        """Make up ratings from tastes: a user's bias, an item's, and the product of what one likes and the other is.

        The sum is rounded to the nearest grade. Users rate rather what they will like, as people do.

        Args:
            key: a `jax.random.key`.
            num_users: rows.
            num_items: columns.
            factors: how many dimensions taste has.
            share: about which share of the table is rated.
            noise: standard deviation of what is unaccountable, in units of the grades' standard deviation.
            scale: the grades there are.

        Raises:
            ValueError: no users, items or factors, or a share outside (0, 1].

        Example:
            >>> import chainrule as cr, jax
            >>> ratings = cr.Ratings.latent_factors(jax.random.key(0), 40, 10, share=0.5)
            >>> ratings.rated.mean().round(2).item(), sorted(set(ratings.table[ratings.rated].tolist()))
            (0.5, [1.0, 2.0, 3.0, 4.0, 5.0])
        """
        if min(num_users, num_items, factors) < 1 or not 0 < share <= 1:
            raise ValueError(
                f"{num_users} users, {num_items} items, {factors} factors, a share of {share}: wanted at least one of "
                "each, and a share above 0 and at most 1"
            )
        rng = generator(key)
        taste, kind = rng.normal(size=(num_users, factors)), rng.normal(size=(num_items, factors))
        liking = taste @ kind.T / np.sqrt(factors)
        liking += 0.4 * rng.normal(size=(num_users, 1)) + 0.5 * rng.normal(size=(1, num_items))
        heard = liking + noise * rng.normal(size=liking.shape)
        grades = np.asarray(scale, float)
        wanted = grades.mean() + heard * grades.std()
        table = grades[abs(wanted[..., None] - grades).argmin(-1)]
        popular = rng.normal(size=(1, num_items)) + 0.5 * liking + rng.gumbel(size=liking.shape)
        rated = popular >= np.quantile(popular, 1 - share)
        rated[np.arange(num_users), popular.argmax(1)] = True  # nobody without a rating
        return cls(np.where(rated, table, np.nan), scale)

    @property
    def rated(self) -> Bool[np.ndarray, "user item"]:
        """Where there are ratings."""
        return ~np.isnan(self.table)

    def indices(self) -> Int[np.ndarray, "user item"]:
        """The place of each rating on the scale, −1 where there is none."""
        return np.where(self.rated, np.searchsorted(self.scale, self.table), -1).astype(np.int32)

    def split(self, key, share: float = 0.1) -> tuple["Ratings", "Ratings"]:
        """Set ratings aside at random: what is left, and what was taken, about `share` of all.

        Raises:
            ValueError: a share outside (0, 1).

        Example:
            >>> import chainrule as cr, jax
            >>> ratings = cr.Ratings.latent_factors(jax.random.key(0), 40, 10)
            >>> train, test = ratings.split(jax.random.key(1), share=0.2)
            >>> bool((train.rated & test.rated).any()), bool(((train.rated | test.rated) == ratings.rated).all())
            (False, True)
        """
        if not 0 < share < 1:
            raise ValueError(f"share is {share}; it must be between 0 and 1")
        taken = self.rated & (generator(key).random(self.table.shape) < share)
        return tuple(self._with(np.where(mask, self.table, np.nan)) for mask in (~taken, taken))  # pyright: ignore

    def _with(self, table: Float[np.ndarray, "user item"]) -> Any:
        return Ratings(table, self.scale, users=self.users, items=self.items)

    def __repr__(self):
        users, items = self.table.shape
        return f"Ratings({users} users, {items} items, {int(self.rated.sum())} ratings)"


def _names(names, size: int, what: str) -> tuple[Hashable, ...]:
    found = tuple(range(size)) if names is None else tuple(names)
    if len(found) != size:
        raise ValueError(f"{len(found)} names of {what}s for {size}")
    if (twice := first_duplicate(found)) is not None:
        raise ValueError(f"the {what} {twice!r} is there twice")
    return found


def _order(name):
    """Numbers by value, everything else by its text."""
    text = str(name)
    return (0, int(text), text) if text.isdecimal() else (1, 0, text)

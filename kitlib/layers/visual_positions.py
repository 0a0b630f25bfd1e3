"""Learned positions of visual tokens: vectors per row, per column and per image, added after the projection.

    tokens = VisualPositions(grid=(8, 8), max_images=16, width=64)(tokens)      # float[B, n, k, D], k = 64, D = 64

A departure from PaLI-X (2305.18565), whose visual tokens carry only what the tower's position embeddings left in them;
T5's relative positions tell near from far along the sequence, and nothing of a second dimension. That suffices in a
large model; these vectors are for small ones, whose towers pass on little of where a patch is.
"""

import flax.linen as nn
import jax


def positions(rows: jax.Array, columns: jax.Array, images: jax.Array) -> jax.Array:
    """The vector of every visual token: its row's, its column's and its image's, added.

    rows: float[gh, D]. columns: float[gw, D]. images: float[n, D]. Returns float[n, gh * gw, D], patches row by row.
    """
    grid = rows[:, None] + columns[None]  # [gh, gw, D]
    return images[:, None] + grid.reshape(-1, rows.shape[-1])[None]  # [n, k, D]


class VisualPositions(nn.Module):
    """float[B, n, k, D] -> float[B, n, k, D]: visual tokens of n images with k = rows x columns patches each.

    Images are counted from the last one, whose vector is `image_embedding[0]`: examples with fewer images are padded in
    front, and that must not change them. All vectors start from N(0, 1), about as long as the projected patches.
    Raises ValueError for more than `max_images` images.
    """

    grid: tuple[int, int]
    max_images: int
    width: int

    def setup(self):
        normal = nn.initializers.normal(1.0)
        self.row_embedding = self.param("row_embedding", normal, (self.grid[0], self.width))
        self.column_embedding = self.param("column_embedding", normal, (self.grid[1], self.width))
        self.image_embedding = self.param("image_embedding", normal, (self.max_images, self.width))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        vectors = positions(self.row_embedding, self.column_embedding, self.of_images(tokens.shape[1]))
        return tokens + vectors.astype(tokens.dtype)[None]

    def of_images(self, n: int) -> jax.Array:
        """float[n, D]: the vectors of n images, which the texts of a few-shot prompt get, too."""
        if n > self.max_images:
            raise ValueError(f"Expected 1 to {self.max_images} images or frames (max_images), got {n}.")
        return self.image_embedding[:n][::-1]  # the last one is the first

"""Any image file ⇄ arrays and tensors: upright, RGB or gray, 8 or 16 bit, alpha apart."""

from srtrain.images.fast import pixels_in, read_hashed, read_quickly, read_rgb8, survey
from srtrain.images.listing import IMAGE_SUFFIXES, list_images
from srtrain.images.opening import shown
from srtrain.images.picture import Picture, from_tensor, round_levels, to_tensor, to_uint8
from srtrain.images.png import Sheet, write_png
from srtrain.images.reading import from_pillow, image_size, read_picture
from srtrain.images.writing import (
    WRITABLE_SUFFIXES,
    takes_strips,
    to_pillow,
    write_picture,
    write_strips,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "Picture",
    "Sheet",
    "from_pillow",
    "from_tensor",
    "image_size",
    "list_images",
    "pixels_in",
    "read_hashed",
    "read_picture",
    "read_quickly",
    "read_rgb8",
    "round_levels",
    "shown",
    "survey",
    "takes_strips",
    "to_pillow",
    "to_tensor",
    "to_uint8",
    "write_picture",
    "write_png",
    "write_strips",
]

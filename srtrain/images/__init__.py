"""Any image file ⇄ arrays and tensors: upright, RGB or gray, 8 or 16 bit, alpha apart."""

from srtrain.images.listing import IMAGE_SUFFIXES, list_images
from srtrain.images.picture import Picture, from_tensor, to_tensor, to_uint8
from srtrain.images.reading import (
    from_pillow,
    header_notes,
    image_size,
    read_picture,
    read_rgb8,
    shown,
)
from srtrain.images.writing import WRITABLE_SUFFIXES, to_pillow, write_picture

__all__ = [
    "IMAGE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "Picture",
    "from_pillow",
    "from_tensor",
    "header_notes",
    "image_size",
    "list_images",
    "read_picture",
    "read_rgb8",
    "shown",
    "to_pillow",
    "to_tensor",
    "to_uint8",
    "write_picture",
]

"""The grid of images and their views as one picture, drawn with Pillow."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from moco.analysis.views import VIEWS, Row

COLOURS = ("#1f5fbf", "#d1490f", "#0b7d64", "#8a3fc0")  # of a view's frame and of its crop's box in the image
SIDE, MOST_SIDE = 150, 1024  # pixels of a picture in the grid: about so many, and never more
GAP, LINE, TEXT = 14, 14, 11  # pixels between pictures, of a line of text, of its font
LINES, WIDTH = 4, 180  # of text below a view, and pixels that they take
INK, SOFT = "#16191d", "#59616b"


def grid(found: Sequence[Row], heading: Sequence[str]) -> Image.Image:
    """One row per image: the image with the boxes of its crops, then its views, each with what was drawn for it."""
    font = ImageFont.load_default(TEXT)
    sizes = [enlarged(p).size for row in found for p in (row.picture, *(view.picture for view in row.views))]
    right = max(WIDTH, max(width for width, _ in sizes)) + GAP
    down = max(height for _, height in sizes) + LINES * LINE + 2 * GAP
    top = 2 * GAP + len(heading) * LINE
    width = max(GAP + right * (1 + VIEWS), *(round(font.getlength(line)) + 2 * GAP for line in heading))
    canvas = Image.new("RGB", (width, top + down * len(found)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(heading):
        draw.text((GAP, GAP + i * LINE), line, font=font, fill=SOFT)
    for i, row in enumerate(found):
        y = top + i * down
        cells = [(boxed(row), [row.label or "image"], "white")]
        cells += [(enlarged(view.picture), view.lines, colour) for view, colour in zip(row.views, COLOURS)]
        for x, (picture, lines, colour) in zip(range(GAP, width, right), cells):
            draw.rectangle((x - 3, y - 3, x + picture.width + 2, y + picture.height + 2), outline=colour, width=2)
            canvas.paste(picture, (x, y))
            for k, line in enumerate(lines):
                draw.text((x, y + picture.height + 6 + k * LINE), line, font=font, fill=INK)
    return canvas


def enlarged(picture: Image.Image) -> Image.Image:
    """The picture about SIDE pixels wide, each of its pixels a square; larger ones as they are, up to MOST_SIDE."""
    longer = max(picture.size)
    if longer > MOST_SIDE:
        picture = picture.copy()
        picture.thumbnail((MOST_SIDE, MOST_SIDE))
    times = max(1, round(SIDE / longer))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def boxed(row: Row) -> Image.Image:
    """The image with the box of each view's crop in the view's colour, the largest first."""
    picture = enlarged(row.picture)
    draw, times = ImageDraw.Draw(picture), picture.width / row.picture.width
    drawn = [(view.drawn.crop, colour) for view, colour in zip(row.views, COLOURS) if view.drawn]
    for (top, left, height, width), colour in sorted(drawn, key=lambda pair: -pair[0][2] * pair[0][3]):
        corners = (left * times, top * times, (left + width) * times - 1, (top + height) * times - 1)
        draw.rectangle(corners, outline=colour, width=2)
    return picture

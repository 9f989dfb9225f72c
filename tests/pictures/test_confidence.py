import numpy as np

from eomt_jax.pictures.confidence import draw_confidence


def test_unsure_pixels_glow_and_sure_ones_are_dark():
    image = np.full((40, 60, 3), 100, np.uint8)
    confidence = np.zeros((40, 60), np.float32)
    confidence[:, 30:] = 1
    picture = draw_confidence(image, confidence)
    assert picture.shape == (84, 60, 3)
    # 0.65 of the colour and 0.35 of the grey photograph.
    assert picture[20, 5].tolist() == [201, 171, 77]
    assert picture[20, 55].tolist() == [45, 44, 61]
    assert (picture[40:].reshape(-1, 3) == 255).all(1).any()


def test_picture_is_enlarged_to_its_long_side():
    picture = draw_confidence(
        np.zeros((20, 10, 3), np.uint8), np.ones((20, 10), np.float32), long_side=300
    )
    assert picture.shape == (344, 150, 3)

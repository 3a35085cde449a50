"""Small ICC profiles made by hand, and the formulas that say what colours they mean (ICC.1:2001-04)."""

import struct

import numpy as np

ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""Columns: XYZ (D50) of the primaries."""
D50 = np.array([0.9642, 1.0, 0.8249])
GAMMA = 563 / 256


def srgb_from_xyz(xyz: np.ndarray) -> np.ndarray:
    """XYZ (D50) -> sRGB levels 0..255 (IEC 61966-2-1)."""
    linear = np.clip(np.linalg.solve(SRGB, xyz), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def xyz_from_lab(lab: tuple[float, float, float]) -> np.ndarray:
    """CIE 1976 L*a*b* -> XYZ (D50)."""
    fy = (lab[0] + 16) / 116
    f = np.array([fy + lab[1] / 500, fy, fy - lab[2] / 200])
    return D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))


def adobe_rgb_profile() -> bytes:
    """Adobe RGB (1998): three primaries and one gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(GAMMA * 256)) + bytes(2)
    tags = {f"{name}TRC".encode(): curve for name in "rgb"}
    tags |= {f"{name}XYZ".encode(): _xyz(ADOBE_RGB[:, column]) for column, name in enumerate("rgb")}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | {b"wtpt": _xyz(D50)})


def cmyk_profile(magenta: tuple[int, int, int], darkest: int = 0) -> bytes:
    """CMYK whose pure magenta is the Lab colour `magenta`.

    Paper is white, other mixtures are mid-grey and full black ink has the lightness `darkest`.
    """
    corners = np.zeros((2, 2, 2, 2, 3), dtype=np.uint8)
    corners[..., 1:] = 128
    corners[:, :, :, 0, 0] = 128
    corners[:, :, :, 1, 0] = round(darkest * 2.55)
    corners[0, 0, 0, 0, 0] = 255
    corners[0, 1, 0, 0] = round(magenta[0] * 2.55), magenta[1] + 128, magenta[2] + 128
    identity = np.eye(3).astype(">i4") * 65536
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity.astype(">i4").tobytes()
    table += ramp * 4 + corners.tobytes() + ramp * 3
    return _profile(b"scnr", b"CMYK", b"Lab ", {b"A2B0": table, b"A2B1": table, b"wtpt": _xyz(D50)})


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + np.round(values * 65536).astype(">i4").tobytes()


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I4sI", offset + len(body), b"none", 0x02400000) + kind + space + connection
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(D50)[8:] + bytes(48)
    return header + table + body

"""Content Credentials (C2PA): a signed record inside a video of what it was made from and how it was changed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import files
from errors import MissingFile, UserError, failure_of_disk, needs, root_message

CURVES = {256: "es256", 384: "es384", 521: "es512"}  # C2PA's signature algorithms for elliptic curves, by key size
SIGNABLE = (".mp4", ".m4v", ".mov")  # output containers that can hold C2PA data
# IPTC's term for a recording partly altered by trained models
CHANGED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


class Credentials:
    """The signer of a video: a chain of certificates, the signer's own first, and its private key, both PEM.

    Raises MissingFile, or UserError if the files cannot sign or c2pa-python is not installed.
    """

    def __init__(self, certificates: str | Path, key: str | Path) -> None:
        for path in (Path(certificates), Path(key)):
            if not path.is_file():
                raise MissingFile(
                    f"{path} does not exist; --credentials needs certificates and their private key (PEM)"
                )
        with needs("credentials"):
            import c2pa
            from cryptography.exceptions import UnsupportedAlgorithm
        self._c2pa: Any = c2pa
        self.certificates = Path(certificates)
        words = f"{certificates} and {key} cannot sign Content Credentials"
        try:
            content = self.certificates.read_bytes(), Path(key).read_bytes()
            self._signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(_algorithm(content[1]), *content, None))
            self._test_signature()
        except (ValueError, TypeError, UnsupportedAlgorithm, c2pa.C2paError) as error:
            raise UserError(f"{words}: {root_message(error)}") from error

    def check(self, outfile: Path) -> None:
        """Raise UserError if this kind of file cannot hold credentials."""
        if outfile.suffix.lower() not in SIGNABLE:
            raise UserError(f"{outfile} cannot hold --credentials; name it {' or '.join(SIGNABLE)}")

    def sign(self, path: Path, source: Path, title: str, software: str) -> None:
        """Sign the video at ``path`` as ``title``, made from the video or photo ``source`` by the program ``software``.

        Credentials that the source already has become part of the history.
        """
        try:
            with files.atomic_write(path) as signed, self._history(title, software, source) as history:
                history.sign_file(path, signed, self._signer)
        except self._c2pa.C2paError as error:
            problem = f"{title} could not be signed: {root_message(error)}"
            raise failure_of_disk(problem, problem) or RuntimeError(problem) from error

    def _test_signature(self) -> None:
        """Sign a black picture, since faulty certificates raise errors only then."""
        picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
        with self._history("black", "nobody") as history:
            history.sign(self._signer, "image/png", io.BytesIO(picture), io.BytesIO())

    def _history(self, title: str, software: str, source: Path | None = None) -> Any:
        """Return a history that begins with ``source``, or with this program if C2PA does not support such a file."""
        try:
            return self._begin(title, software, source)
        except self._c2pa.C2paError:  # the source is damaged, or not what its suffix says
            return self._begin(title, software, None)

    def _begin(self, title: str, software: str, source: Path | None) -> Any:
        c2pa = self._c2pa
        action = {"action": "c2pa.edited", "softwareAgent": {"name": software}, "digitalSourceType": CHANGED}
        action["description"] = "The lips are synthetic."
        assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]
        manifest = {"claim_generator_info": [{"name": "Wav2Lip"}], "title": title, "assertions": assertions}
        # do not fetch remote credentials that an untrusted file may point to
        context = c2pa.Context.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}})
        history = c2pa.Builder(json.dumps(manifest), context)
        kind = source.suffix.lower().removeprefix(".") if source else ""
        if source and kind in c2pa.Builder.get_supported_mime_types():  # the list includes suffixes
            history.set_intent(c2pa.C2paBuilderIntent.EDIT)
            with open(source, "rb") as file:
                history.add_ingredient({"title": source.name, "relationship": "parentOf"}, kind, file)
        else:
            kind_of_source = c2pa.C2paDigitalSourceType.COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA
            history.set_intent(c2pa.C2paBuilderIntent.CREATE, kind_of_source)
        return history


def _algorithm(key: bytes) -> str:
    """Return C2PA's name of the signature algorithm for a private key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    loaded = load_pem_private_key(key, None)
    if isinstance(loaded, ec.EllipticCurvePrivateKey):
        if loaded.key_size in CURVES:
            return CURVES[loaded.key_size]
        raise ValueError(f"C2PA has no curve of {loaded.key_size} bits")
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise ValueError(f"a key of type {type(loaded).__name__.strip('_')} is not supported by C2PA")

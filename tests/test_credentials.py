"""credentials.py: what signed results say about themselves, read by C2PA's own reader."""

from __future__ import annotations

import datetime
import http.server
import json
import threading

import cv2
import numpy as np
import pytest

import inference
import video
from conftest import run_ffmpeg, write_clip
from credentials import CHANGED, Credentials
from lipsync import LipSync

c2pa = pytest.importorskip("c2pa", reason="needs c2pa-python")
x509 = pytest.importorskip("cryptography.x509", reason="needs cryptography, which c2pa-python brings")

BOX = (15, 75, 30, 90)


def write_signer(folder, private=None):
    """Write the certificates of a C2PA signer, issued by an authority of our own, and the key; return both paths."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority, private = ec.generate_private_key(ec.SECP256R1()), private or ec.generate_private_key(ec.SECP256R1())
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)

    def certificate(name: str, key, is_authority: bool, issuer: str, issuer_key) -> str:
        names = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, word)]) for word in (name, issuer)]
        builder = x509.CertificateBuilder(*reversed(names), key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        uses = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )  # fmt: skip
        uses |= {"encipher_only": False, "decipher_only": False, "digital_signature": not is_authority}
        uses |= {"key_cert_sign": is_authority, "crl_sign": is_authority}
        extensions = [
            (x509.BasicConstraints(is_authority, None), True),
            (x509.KeyUsage(**uses), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
        ]
        if not is_authority:
            extensions.append((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    chain = certificate("Anna", private, False, "Authority", authority)
    chain += certificate("Authority", authority, True, "Authority", authority)
    (folder / "chain.pem").write_text(chain)
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(secret)
    return folder / "chain.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return write_signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="module")
def lips(small_checkpoint, signer):
    return LipSync(small_checkpoint, credentials=signer)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Five grey frames, 128x96: credentials do not depend on what is filmed."""
    path = tmp_path_factory.mktemp("clip") / "face.mp4"
    write_clip(path, np.full((5, 96, 128, 3), 90, np.uint8))
    return path


@pytest.fixture(scope="module")
def word(speech, tmp_path_factory):
    """0.2 s of speech."""
    path = tmp_path_factory.mktemp("word") / "word.wav"
    run_ffmpeg("-i", speech, "-t", 0.2, path)
    return path


def credentials_of(path):
    """Return a file's manifests, the active one and its actions by name, having checked that they are valid."""
    with c2pa.Reader(str(path)) as reader:
        store = json.loads(reader.json())
        assert reader.get_validation_state() == "Valid"
    manifest = store["manifests"][store["active_manifest"]]
    (actions,) = (one["data"]["actions"] for one in manifest["assertions"] if one["label"].startswith("c2pa.actions"))
    return store, manifest, {action["action"]: action for action in actions}


def test_result_names_its_source_and_the_edit(lips, clip, word, tmp_path, small_checkpoint):
    lips.run(clip, word, tmp_path / "out.mp4", box=BOX)
    _, manifest, actions = credentials_of(tmp_path / "out.mp4")
    assert list(actions) == ["c2pa.opened", "c2pa.edited"] and manifest["title"] == "out.mp4"
    assert actions["c2pa.edited"]["digitalSourceType"] == CHANGED
    assert actions["c2pa.edited"]["softwareAgent"]["name"] == f"Wav2Lip ({small_checkpoint.name})"
    assert [one["title"] for one in manifest["ingredients"]] == [clip.name]
    assert manifest["signature_info"]["issuer"] == "Anna"
    LipSync(small_checkpoint).run(clip, word, tmp_path / "unsigned.mp4", box=BOX)
    frames = [list(video.read_frames(video.probe(tmp_path / name))) for name in ("out.mp4", "unsigned.mp4")]
    assert np.array_equal(*frames) and len(list(tmp_path.iterdir())) == 2


def test_credentials_of_the_source_are_kept(lips, clip, word, tmp_path):
    lips.run(clip, word, tmp_path / "once.mp4", box=BOX)
    lips.run(tmp_path / "once.mp4", word, tmp_path / "twice.mov", box=BOX)
    store, manifest, _ = credentials_of(tmp_path / "twice.mov")
    assert len(store["manifests"]) == 2 and manifest["ingredients"][0]["title"] == "once.mp4"


def test_only_supported_sources_are_recorded_as_opened(lips, clip, word, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((96, 128, 3), 90, np.uint8))
    lips.run(tmp_path / "photo.png", word, tmp_path / "out.mp4", box=BOX)
    assert "c2pa.opened" in credentials_of(tmp_path / "out.mp4")[2]
    run_ffmpeg("-i", clip, "-c", "copy", tmp_path / "talk.mkv")  # has no place for credentials
    for name in ("talk.mkv", "named otherwise.mp4", "photo.jpg"):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes((tmp_path / ("photo.png" if "photo" in name else "talk.mkv")).read_bytes())
        lips.run(tmp_path / name, word, tmp_path / "out.mp4", box=BOX)
        assert "c2pa.created" in credentials_of(tmp_path / "out.mp4")[2]


def test_remote_credentials_of_a_source_are_not_fetched(lips, signer, clip, word, tmp_path):
    """Otherwise anyone who provides a face could make this machine call any address."""
    requested = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        builder = c2pa.Builder(json.dumps({"title": "x", "assertions": []}))
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
        builder.set_no_embed()
        builder.set_remote_url(f"http://127.0.0.1:{server.server_port}/secret.c2pa")
        info = c2pa.C2paSignerInfo("es256", *(path.read_bytes() for path in signer), None)
        builder.sign_file(clip, tmp_path / "remote.mp4", c2pa.Signer.from_info(info))
        requested.clear()
        lips.run(tmp_path / "remote.mp4", word, tmp_path / "out.mp4", box=BOX)
        server.shutdown()
    assert (
        not requested
        and "c2pa.edited" in credentials_of(tmp_path / "out.mp4")[2]
        and b"secret.c2pa" in (tmp_path / "remote.mp4").read_bytes()
    )


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "secp384r1"])
def test_other_kinds_of_keys_sign_too(tmp_path, kind):
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    generate = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "secp384r1": lambda: ec.generate_private_key(ec.SECP384R1()),
    }
    Credentials(*write_signer(tmp_path, generate[kind]()))  # makes a test signature


def test_credentials_flag_signs_the_result(small_checkpoint, clip, word, signer, tmp_path):
    flags = ["--checkpoint_path", small_checkpoint, "--face", clip, "--audio", word, "--box", *BOX]
    out = tmp_path / "out.m4v"
    assert inference.main([*map(str, [*flags, "--outfile", out, "--credentials", *signer])]) == 0
    assert "c2pa.edited" in credentials_of(out)[2]


@pytest.mark.parametrize("wrong, words", [
    ("outfile", "out.mkv cannot hold --credentials; name it .mp4 or .m4v or .mov"),
    ("missing", "nowhere.pem does not exist; --credentials needs certificates and their private key"),
    ("swapped", "cannot sign Content Credentials: "),
    ("other key", "cannot sign Content Credentials: "),
])  # fmt: skip
def test_unusable_credentials_are_one_line_before_any_work(
    small_checkpoint, clip, word, signer, tmp_path, capsys, wrong, words
):
    out = tmp_path / ("out.mkv" if wrong == "outfile" else "out.mp4")
    other = tmp_path / "other"
    other.mkdir()
    chain, key = signer
    pair = {
        "outfile": signer,
        "missing": (chain, tmp_path / "nowhere.pem"),
        "swapped": (key, chain),
        "other key": (chain, write_signer(other)[1]),
    }[wrong]
    flags = ["--checkpoint_path", small_checkpoint, "--face", clip, "--audio", word, "--outfile", out]
    assert inference.main([*map(str, [*flags, "--credentials", *pair])]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error and not out.exists()

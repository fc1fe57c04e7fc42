"""Sets of images: small files of their schemas, through the call that loads them."""

import datasets
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.data as eqd
from equifed.data import sets


RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def parquet(path, columns, **features):
    kinds = {"image": datasets.Image(), "text": datasets.Value("string")}
    kinds["integers"] = datasets.Value("int64")
    chosen = {
        name: datasets.ClassLabel(kind) if isinstance(kind, int) else kinds[kind]
        for name, kind in features.items()
    }
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(chosen))
    table.to_parquet(path)
    return path


def femnist(path, **changes):
    from PIL import Image

    pixels = RNG.integers(0, 256, (5, 28, 28), np.uint8)
    columns = {
        "image": [Image.fromarray(p) for p in pixels],
        "writer_id": ["f2599_10", "f0003_02", "f2599_10", "f2100_00", "f2600_01"],
        "hsf_id": [0] * 5,
        "character": [3, 61, 9, 10, 0],
        **changes,
    }
    kinds = {"image": "image", "writer_id": "text", "hsf_id": "integers"}
    kinds = {**kinds, "character": "integers"}
    return parquet(path, columns, **kinds), pixels


@pytest.mark.parametrize("streaming", [False, True])
def test_emnist(tmp_path, streaming):
    path, pixels = femnist(tmp_path / "train-0.parquet")
    dataset = sets.emnist(data_files=path, streaming=streaming)
    assert dataset.client_ids == ["f0003_02", "f2100_00", "f2599_10", "f2600_01"]
    own = dataset["f2599_10"]
    assert own["x"].dtype == np.float32
    want = 1 - pixels[[0, 2], :, :, None] / 255
    np.testing.assert_allclose(own["x"], want, rtol=0, atol=1e-7)
    assert own["y"].dtype == np.int32
    assert own["y"].tolist() == [3, 9]
    domains = {c: e["domain_id"].tolist() for c, e in dataset.items()}
    assert domains == {
        "f0003_02": [1],
        "f2100_00": [0],
        "f2599_10": [0, 0],
        "f2600_01": [1],
    }
    digits = sets.emnist(data_files=[path], streaming=streaming, only_digits=True)
    assert digits.client_ids == ["f2599_10", "f2600_01"]
    np.testing.assert_array_equal(digits["f2599_10"]["x"], own["x"])
    np.testing.assert_array_equal(digits["f2600_01"]["y"], [0])


def test_emnist_domains():
    assert [sets.emnist_domain(f"f{n}_00") for n in (2099, 2100, 2599, 2600)] == [
        *(1, 0, 0, 1)
    ]
    assert sets.emnist_domain("0123456789abcdef:f2345_67") == 0
    for wrong in (
        "f234_56",
        "f2345_6",
        "g2345_67",
        "f2345-67",
        "x:f2345_67",
        "f²345_67",
    ):
        with pytest.raises(ValueError, match="a writer of EMNIST such as"):
            sets.emnist_domain(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"character": [3, 61, 62, 10, 0]},
            "label 62 in example 1 of client 'f2599_10'; labels are 0 to 61",
        ),
        ({"writer_id": ["a"] * 5}, "a writer of EMNIST such as 'f2100_45', got 'a'"),
    ],
)
def test_what_is_wrong_in_emnist_is_named(tmp_path, changes, message):
    path, _ = femnist(tmp_path / "train.parquet", **changes)
    with pytest.raises(ValueError, match=message):
        sets.emnist(data_files=path)


def test_another_set_is_noticed(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"x": ["a"]}, x="text")
    with pytest.raises(ValueError, match="no column 'image'.*its columns are: x"):
        sets.emnist(data_files=path)
    columns = {"img": ["a"], "label": [1]}
    path = parquet(tmp_path / "b.parquet", columns, img="text", label="integers")
    with pytest.raises(ValueError, match="'img' of .* hold image, and holds string"):
        sets.cifar10(eqd.IIDPartition(1), data_files=path, streaming=True)
    with pytest.raises(Exception, match=".") as caught:
        sets.emnist(data_files=tmp_path / "none.parquet")
    assert "`data_files=...`" in caught.value.__notes__[0]


def test_what_broke_off_is_not_used(tmp_path, monkeypatch):
    from PIL import Image

    pixels = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    columns = {"img": [Image.fromarray(p) for p in pixels], "label": [1, 2]}
    one, two = (
        parquet(tmp_path / f"{x}.parquet", columns, img="image", label=10) for x in "ab"
    )
    whole = two.read_bytes()
    two.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as a file of parquet"):
        sets.cifar10(eqd.IIDPartition(2), data_files=[one, two])
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    two.write_bytes(whole)
    dataset = sets.cifar10(eqd.IIDPartition(2), data_files=[one, two])
    assert dataset.num_examples == 4

    def breaks_off(*args, **kwargs):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr("datasets.load_dataset", breaks_off)
    with pytest.raises(ConnectionError, match="reset by peer") as caught:
        sets.emnist()
    note = caught.value.__notes__[0]
    assert "datasets.load_dataset('flwrlabs/femnist', split='train')" in note
    assert "incomplete of a download is not used" in note


@pytest.mark.parametrize("streaming", [False, True])
def test_cifar(tmp_path, streaming):
    from PIL import Image

    pixels = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]
    fine = np.arange(12) % 4
    columns = {"img": pictures, "fine_label": fine, "coarse_label": fine // 2}
    path = parquet(
        tmp_path / "c.parquet", columns, img="image", fine_label=100, coarse_label=20
    )
    kwargs = {"data_files": path, "streaming": streaming}
    dataset = sets.cifar100(eqd.PachinkoPartition(3), split="test", **kwargs)
    assert dataset.client_sizes.tolist() == [4, 4, 4]
    assert dataset.columns["x"].dtype == np.uint8
    rows = zip(*map(np.asarray, dataset.columns.values()), strict=True)
    seen = {x.tobytes(): (y, coarse) for x, y, coarse in rows}
    for i in range(12):
        assert seen[pixels[i].tobytes()] == (fine[i], fine[i] // 2)
    whole = sets.cifar100(eqd.ColumnPartition("coarse_label"), **kwargs)
    assert [set(e["y"].tolist()) for _, e in whole.items()] == [{0, 1}, {2, 3}]
    columns = {"img": pictures, "label": fine}
    path = parquet(tmp_path / "d.parquet", columns, img="image", label=10)
    by = eqd.ShardPartition(4, 1)
    dataset = sets.cifar10(by, data_files=path, streaming=streaming)
    assert [e["y"].tolist() for _, e in dataset.items()] == [
        [e] * 3 for e in [x["y"][0] for _, x in dataset.items()]
    ]


def test_fashion_mnist(tmp_path):
    from PIL import Image

    pixels = RNG.integers(0, 256, (4, 28, 28), np.uint8)
    columns = {"image": [Image.fromarray(p) for p in pixels], "label": [9, 8, 9, 8]}
    path = parquet(tmp_path / "f.parquet", columns, image="image", label=10)
    dataset = sets.fashion_mnist(eqd.ColumnPartition("label"), data_files=path)
    np.testing.assert_array_equal(dataset["9"]["x"], pixels[::2, :, :, None])
    assert dataset["8"]["y"].tolist() == [8, 8]


def test_medmnist(tmp_path):
    grey = RNG.integers(0, 256, (6, 28, 28), np.uint8)
    labels = np.array([[0], [1], [0], [1], [2], [2]], np.uint8)
    path = tmp_path / "x.npz"
    np.savez(path, train_images=grey, train_labels=labels, test_images=grey)
    dataset = sets.medmnist(path, eqd.ColumnPartition("label"))
    np.testing.assert_array_equal(dataset["1"]["x"], grey[[1, 3], ..., None])
    assert dataset["2"]["y"].tolist() == [2, 2]
    colour = RNG.integers(0, 256, (6, 28, 28, 3), np.uint8)
    both = np.stack([labels[:, 0], labels[:, 0]], 1)
    np.savez(path, val_images=colour, val_labels=both)
    dataset = sets.medmnist(path, eqd.IIDPartition(2), split="val")
    assert dataset.columns["x"].shape == (6, 28, 28, 3)
    assert dataset.columns["y"].shape == (6, 2)
    with pytest.raises(ValueError, match="has no 'train_images'.*val_images"):
        sets.medmnist(path, eqd.IIDPartition(2))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a file of MedMNIST"):
        sets.medmnist(path, eqd.IIDPartition(2))


def test_every_set_is_cited():
    for name in ("emnist", "cifar10", "cifar100", "fashion_mnist", "medmnist"):
        text = sets.cite(name)
        assert text.startswith("% https://")
        assert "% Licence: " in text
        assert "year={" in text
        assert callable(getattr(sets, name))


# Pachinko allocation.


def test_pachinko_clients_have_topics():
    fine = np.repeat(np.arange(100), 50)
    coarse = np.random.default_rng(1).permutation(np.arange(100) % 20)[fine]
    columns = {"fine_label": fine, "coarse_label": coarse}
    clients = eqd.PachinkoPartition(100, seed=3)(columns, 5000)
    rows = np.concatenate(list(clients.values()))
    np.testing.assert_array_equal(np.sort(rows), np.arange(5000))
    assert {len(own) for own in clients.values()} == {50}
    # In the first ones nothing has run out: of 20 topics with concentration 0.1 each,
    # the mean sum of squared shares is 1.1 / 3, of 5 labels of a topic 11 / 51.
    first = [clients[str(i)] for i in range(25)]
    topics = np.stack([np.bincount(coarse[own], minlength=20) / 50 for own in first])
    squares = ((topics**2).sum(1) * 50 - 1) / 49  # without what is drawn by chance
    assert abs(squares.mean() - 1.1 / 3) < 0.09
    own = np.stack([np.bincount(fine[own], minlength=100) for own in first])
    pairs = sum((own * (own - 1))[:, coarse[::50] == t].sum(1) for t in range(20))
    within = (topics * 50 * (topics * 50 - 1)).sum(1)
    assert abs((pairs / within).mean() - 11 / 51) < 0.03


def test_pachinko_refuses_a_fine_label_of_two_topics():
    columns = {"fine_label": np.array([1, 1]), "coarse_label": np.array([0, 3])}
    with pytest.raises(ValueError, match="'1' of column 'fine_label' has different"):
        eqd.PachinkoPartition(1)(columns, 2)


# In the loss: crops, flips and standardisation of one image with its key.


def test_standardize_is_that_of_tensorflow():
    image = RNG.integers(0, 256, (5, 4, 3), np.uint8)
    want = (image - image.mean()) / max(image.std(), 1 / np.sqrt(60))
    got = eqf.nn.standardize(jnp.asarray(image))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    # Of low contrast: the bound is 1 / sqrt(N), and not sqrt(N).
    faint = np.full((4, 4, 1), 0.5, np.float32)
    faint[0, 0] = 0.75
    std = faint.std()
    assert std < 1 / 4
    want = (faint - faint.mean()) * 4
    np.testing.assert_allclose(eqf.nn.standardize(jnp.asarray(faint)), want, rtol=1e-5)
    strong = eqf.nn.standardize(jnp.asarray(faint * 10))
    np.testing.assert_allclose(jnp.std(strong), 1, rtol=1e-5)
    flat = eqf.nn.standardize(jnp.full((3, 3, 1), 7, jnp.uint8))
    np.testing.assert_array_equal(flat, 0)


def test_crops_and_flips_are_each_images_own():
    image = jnp.arange(1, 5 * 6 * 2 + 1).reshape(5, 6, 2)
    keys = jr.split(jr.key(0), 2000)

    @jax.jit
    def both(keys):
        crop = jax.vmap(lambda k: eqf.nn.random_crop(image, (4, 6), padding=1, key=k))
        return crop(keys), jax.vmap(lambda k: eqf.nn.random_flip(image, key=k))(keys)

    crops, flips = map(np.asarray, both(keys))
    padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)))
    places = {
        padded[i : i + 4, j : j + 6].tobytes(): 0 for i in range(4) for j in range(3)
    }
    assert len(places) == 12
    for crop in crops:
        places[crop.tobytes()] += 1
    counts = np.array(list(places.values()))
    assert counts.sum() == 2000
    assert ((counts - 2000 / 12) ** 2 / (2000 / 12)).sum() < 31.3  # chi2 of 11, 0.1%
    mirrored = np.asarray(image)[:, ::-1]
    share = np.mean([np.array_equal(flip, mirrored) for flip in flips])
    assert abs(share - 0.5) < 0.04
    assert all(
        np.array_equal(flip, mirrored) or np.array_equal(flip, image) for flip in flips
    )


def test_center_crop():
    image = jnp.arange(7 * 6).reshape(7, 6, 1)
    crop = eqf.nn.center_crop(image, 4)
    np.testing.assert_array_equal(crop, image[1:5, 1:5])
    assert eqf.nn.center_crop(image, (7, 2)).shape == (7, 2, 1)
    with pytest.raises(ValueError, match=r"`size` must be at most \(7, 6\).*\(7, 7\)"):
        eqf.nn.center_crop(image, 7)


def test_each_image_of_a_batch_is_flipped_by_itself():
    image = np.zeros((64, 1, 2, 1), np.uint8)
    image[:, 0, 0] = 1
    dataset = eqd.FederatedDataset.from_arrays({"x": image}, by=np.zeros(64, int))
    batching = eqd.Steps(2, batch_size=64)

    def loss(w, example, key):
        left = eqf.nn.random_flip(example["x"], key=key)[0, 0, 0]
        return w * left.astype(jnp.float32)

    algorithm = eqf.FedAvg(loss, optax.sgd(1.0), batching)
    state = algorithm.init(jnp.array(1.0), num_clients=1)
    cohort = eqd.cohort(dataset, batching)
    state, _ = algorithm.round(state, cohort, key=jr.key(0))
    # Two steps, each by the share of the images that are left as they are: all or none
    # of them would make it a whole number.
    moved = 64 * (1.0 - float(state.model))
    assert moved == round(moved)
    assert 40 < moved < 88
    assert moved != 64


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("cut", [0, 0.5])
def test_a_file_that_is_not_whole_is_named(tmp_path, streaming, cut):
    path, _ = femnist(tmp_path / "train-0.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(ValueError, match="train-0.parquet.* cannot be read as a file"):
        sets.emnist(data_files=path, streaming=streaming)


def test_grey_images_are_not_taken_for_coloured_ones(tmp_path):
    from PIL import Image

    pixels = RNG.integers(0, 256, (2, 32, 32), np.uint8)
    columns = {"img": [Image.fromarray(p) for p in pixels], "label": [0, 1]}
    path = parquet(tmp_path / "a.parquet", columns, img="image", label="integers")
    with pytest.raises(ValueError, match=r"shape \(32, 32, 3\), got uint8 of shape"):
        sets.cifar10(eqd.IIDPartition(2), data_files=path)

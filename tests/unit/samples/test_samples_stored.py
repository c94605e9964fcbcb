"""Stored rows and their formats: pictures, texts, sounds and columns become inputs, or one line says why not."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import soundfile
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import StoredData, read
from onnx_lowrank.samples.formats import AnyImageFormat, AudioFormat, FeatureFormat, ImageFormat, TextFormat
from onnx_lowrank.samples.formats.images import PRESETS
from onnx_lowrank.samples.rows.row import Columns

PICTURES = (TensorSpec("x", "tensor(float)", ("N", 3, 4, 6)),)
NHWC = (TensorSpec("x", "tensor(float)", ("N", 4, 6, 3)),)
TOKENS = (
    TensorSpec("input_ids", "tensor(int64)", ("N", "T")),
    TensorSpec("attention_mask", "tensor(int64)", ("N", "T")),
)
WAVE = (TensorSpec("wave", "tensor(float)", ("N", "samples")),)
NUMBERS = (TensorSpec("x", "tensor(float)", ("N", 2)),)
RAW = PRESETS["raw"]


def refusal(source, inputs):
    with pytest.raises(DataError) as caught:
        read(source, inputs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def picture(pixels):
    return Image.fromarray(np.asarray(pixels, np.uint8))


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // max(height - 1, 1), x * 255 // max(width - 1, 1), np.full_like(x, 10)], -1)


def folder(tmp_path, classes=("b", "a"), size=(4, 6)):
    for number, name in enumerate(classes):
        (tmp_path / name).mkdir()
        for index in range(2):
            pixels = np.full((*size, 3), 10 * number + index, np.uint8)
            picture(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path


def png(pixels):
    file = io.BytesIO()
    picture(pixels).save(file, "png")
    return file.getvalue()


# Pictures


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path):
    samples = read(StoredData(path=folder(tmp_path), format=RAW), PICTURES)
    found = [(int(label), float(f["x"][0, 0, 0, 0])) for label, f in zip(samples.labels, samples.feeds, strict=True)]
    assert sorted(found) == [(0, 10), (0, 11), (1, 0), (1, 1)]
    assert samples.source == f"4 files in 2 classes in {tmp_path}/"
    assert any("numbered by name, 'a', 'b'" in note for note in samples.notes)


@pytest.mark.parametrize("text", ["b\nother\na\n", '["b", "other", "a"]', '{"0": ["n1", "b"], "1": "other", "2": "a"}'])
def test_a_file_of_classes_gives_the_order(tmp_path, text):
    path = tmp_path / ("classes.txt" if text[0] == "b" else "classes.json")
    path.write_text(text.replace('["n1", "b"]', '["b", "n1"]'))
    (tmp_path / "data").mkdir()
    source = StoredData(path=folder(tmp_path / "data"), format=RAW, classes=path)
    samples = read(source, PICTURES)
    found = [(int(label), float(f["x"][0, 0, 0, 0])) for label, f in zip(samples.labels, samples.feeds, strict=True)]
    assert sorted(found) == [(0, 0), (0, 1), (2, 10), (2, 11)]


def test_a_class_that_the_file_does_not_name(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "classes.txt").write_text("aa\nb\n")
    text = refusal(StoredData(path=folder(tmp_path / "data"), format=RAW, classes=tmp_path / "classes.txt"), PICTURES)
    assert "class 'a' is not in" in text
    assert "did you mean 'aa'?" in text


@pytest.mark.parametrize("inputs", [PICTURES, NHWC])
def test_pixels_are_scaled_shifted_and_laid_out(tmp_path, inputs):
    pixels = gradient(4, 6)
    picture(pixels).save(tmp_path / "0.png")
    form = ImageFormat(resize="exact", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    got = read(StoredData(path=tmp_path, format=form), inputs).feeds[0]["x"][0]
    got = got if inputs is NHWC else np.moveaxis(got, 0, -1)
    wanted = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_blue_may_come_first(tmp_path):
    picture(gradient(4, 6)).save(tmp_path / "0.png")
    form = ImageFormat(resize="exact", channels="bgr", scale=1.0)
    got = read(StoredData(path=tmp_path, format=form), PICTURES).feeds[0]["x"][0]
    assert (got[0] == 10).all()


def test_the_middle_of_the_picture_is_taken(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 15:25] = 200
    picture(pixels).save(tmp_path / "0.png")
    square = (TensorSpec("x", "tensor(float)", ("N", 3, 10, 10)),)
    got = read(StoredData(path=tmp_path, format=ImageFormat(crop=0.5, scale=1.0)), square).feeds[0]["x"][0, 0]
    assert got[:, 1:9].min() > 150  # 20 × 40 stays, and of it the middle 10 × 10
    whole = read(StoredData(path=tmp_path, format=ImageFormat(crop=1.0, scale=1.0)), square).feeds[0]["x"][0, 0]
    assert whole[:, 0].max() < 60  # half the size, of which 20 of 40 columns are seen


def test_a_picture_of_the_models_size_is_taken_whole(tmp_path):
    picture(gradient(4, 6)).save(tmp_path / "0.png")
    got = read(StoredData(path=tmp_path, format=RAW), PICTURES).feeds[0]["x"][0]
    np.testing.assert_array_equal(np.moveaxis(got, 0, -1), gradient(4, 6))


def test_greys_palettes_transparency_sixteen_bits_and_turned_pictures(tmp_path):
    grey = (TensorSpec("x", "tensor(float)", ("N", 1, 4, 6)),)
    pixels = gradient(4, 6)[..., 1]
    picture(pixels).save(tmp_path / "0.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "1.png")
    picture(pixels).convert("P").save(tmp_path / "2.png")
    picture(pixels).convert("RGBA").save(tmp_path / "3.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half
    picture(pixels[::-1, ::-1]).save(tmp_path / "4.png", exif=exif)
    form = ImageFormat(resize="exact", scale=1.0)
    for feed in read(StoredData(path=tmp_path, format=form), grey).feeds:
        np.testing.assert_allclose(feed["x"][0, 0], pixels, atol=1)


def test_a_model_of_bytes_takes_pixels_as_they_are(tmp_path):
    picture(gradient(4, 6)).save(tmp_path / "0.png")
    inputs = (TensorSpec("x", "tensor(uint8)", (1, 4, 6, 3)),)
    got = read(StoredData(path=tmp_path, format=ImageFormat(resize="exact")), inputs).feeds[0]["x"]
    assert got.dtype == np.uint8
    assert (got[0] == gradient(4, 6)).all()


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "0.png").write_bytes(b"not a picture")
    text = refusal(StoredData(path=tmp_path, format=RAW), PICTURES)
    assert text.startswith(f"{tmp_path / '0.png'} is no image that can be read (")


def test_a_picture_that_ends_early(tmp_path):
    content = png(np.random.default_rng(0).integers(0, 255, (40, 60, 3)))
    (tmp_path / "0.png").write_bytes(content[: len(content) // 2])
    assert "is no image that can be read" in refusal(StoredData(path=tmp_path, format=RAW), PICTURES)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (("N", 3, "H", "W"), "images of any size: give --size 224, say"),
        (("N", 8, 4, 6), "leaves open where the channels are"),
        (("N", 12), "which is no image"),
    ],
)
def test_inputs_that_do_not_say_how_pictures_go_in(tmp_path, shape, said):
    picture(gradient(4, 6)).save(tmp_path / "0.png")
    assert said in refusal(StoredData(path=tmp_path, format=RAW), (TensorSpec("x", "tensor(float)", shape),))


def test_a_folder_with_files_and_classes(tmp_path):
    picture(gradient(4, 6)).save(folder(tmp_path) / "0.png")
    assert "files of its own and files in sub-folders" in refusal(StoredData(path=tmp_path, format=RAW), PICTURES)


def test_without_labels_the_first_preset_is_assumed(tmp_path):
    picture(gradient(4, 6)).save(tmp_path / "0.png")
    samples = read(StoredData(path=tmp_path, format=AnyImageFormat()), PICTURES)
    assert any("--preset imagenet is assumed" in note for note in samples.notes)


@pytest.mark.parametrize("wrong", [{"crop": 0}, {"crop": 1.5}, {"std": (0.0,)}, {"mean": (1.0, 2.0)}, {"size": (0, 4)}])
def test_formats_of_pictures_out_of_range(wrong):
    with pytest.raises(DataError):
        ImageFormat(**wrong)


# Texts


@pytest.fixture
def tokenizer(tmp_path):
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "good": 4, "bad": 5, "very": 6}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 1), ("[SEP]", 2)]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    made.enable_padding(pad_id=0, length=32)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_lines_become_tokens_each_at_its_own_length(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("very good\n\nbad\n")
    samples = read(StoredData(path=tmp_path / "a.txt", format=TextFormat(tokenizer=tokenizer)), TOKENS)
    assert [feed["input_ids"].tolist() for feed in samples.feeds] == [[[1, 6, 4, 2]], [[1, 5, 2]]]
    assert samples.feeds[1]["attention_mask"].tolist() == [[1, 1, 1]]
    assert samples.labels is None


def test_a_fixed_length_is_cut_and_padded(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("very very very very good\nbad\n")
    fixed = tuple(TensorSpec(spec.name, spec.type, ("N", 5)) for spec in TOKENS)
    samples = read(StoredData(path=tmp_path / "a.txt", format=TextFormat(tokenizer=tokenizer.parent)), fixed)
    assert [feed["input_ids"].tolist() for feed in samples.feeds] == [[[1, 6, 6, 6, 2]], [[1, 5, 2, 0, 0]]]
    assert samples.feeds[1]["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]


def test_two_columns_are_a_pair_with_its_types(tmp_path, tokenizer):
    (tmp_path / "a.csv").write_text("sentence1,sentence2,label\ngood,bad,1\nbad,very,0\n")
    types = TensorSpec("token_type_ids", "tensor(int64)", ("N", "T"))
    samples = read(StoredData(path=tmp_path / "a.csv", format=TextFormat(tokenizer=tokenizer)), (*TOKENS, types))
    assert samples.feeds[0]["input_ids"].tolist() == [[1, 4, 2, 5, 2]]
    assert samples.feeds[0]["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
    assert samples.labels.tolist() == [1, 0]


def test_columns_are_found_by_name_or_named(tmp_path, tokenizer):
    (tmp_path / "a.tsv").write_text("id\treview\tmood\n1\tgood\thappy\n2\tbad\tsad\n")
    form = TextFormat(tokenizer=tokenizer, length=2)
    source = StoredData(path=tmp_path / "a.tsv", format=form, columns=Columns(label="mood"))
    samples = read(source, TOKENS[:1])
    assert samples.labels.tolist() == [0, 1]
    assert samples.feeds[0]["input_ids"].tolist() == [[1, 2]]
    (tmp_path / "b.csv").write_text("id,words,more\n1,good,x\n")
    assert "which column holds the text?" in refusal(StoredData(path=tmp_path / "b.csv", format=form), TOKENS)
    named = StoredData(
        path=tmp_path / "b.csv", format=TextFormat(tokenizer=tokenizer), columns=Columns(data=("words",))
    )
    assert read(named, TOKENS).feeds[0]["input_ids"].tolist() == [[1, 4, 2]]


def test_a_text_longer_than_a_window_gives_several_that_count_together(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("very good bad very good\nbad\nbad good bad very\n")
    form = TextFormat(tokenizer=tokenizer, length=4, next_token=True)  # two words between [CLS] and [SEP]
    samples = read(StoredData(path=tmp_path / "a.txt", format=form), TOKENS)
    assert [feed["input_ids"].tolist()[0] for feed in samples.feeds] == [
        [1, 6, 4, 2], [1, 5, 6, 2], [1, 4, 2], [1, 5, 2], [1, 5, 4, 2], [1, 5, 6, 2],
    ]  # fmt: skip
    assert [np.asarray(label).tolist() for label in samples.labels][1:3] == [[5, 6, 2, -100], [4, 2, -100]]
    assert samples.group_numbers.tolist() == [0, 0, 0, 1, 2, 2]
    assert "6 windows of 3 texts; those of one text count together" in " ".join(samples.notes)
    assert "in windows of 4 tokens" in " ".join(samples.notes)


def test_texts_that_fit_in_a_window_have_no_groups_and_a_window_of_one_token_says_nothing(tmp_path, tokenizer):
    made = Tokenizer.from_file(str(tokenizer))
    made.post_processor = processors.TemplateProcessing("$A", "$A $B", [])
    made.save(str(tokenizer))
    (tmp_path / "a.txt").write_text("very good bad\nbad good\n")
    form = TextFormat(tokenizer=tokenizer, length=2, next_token=True)
    samples = read(StoredData(path=tmp_path / "a.txt", format=form), TOKENS)
    assert [feed["input_ids"].tolist()[0] for feed in samples.feeds] == [[6, 4], [5, 4]]
    assert samples.groups is None


def test_texts_with_labels_of_their_own_are_cut(tmp_path, tokenizer):
    (tmp_path / "a.csv").write_text("text,label\nvery good bad very good,1\nbad,0\n")
    form = TextFormat(tokenizer=tokenizer, length=4, next_token=True)
    samples = read(StoredData(path=tmp_path / "a.csv", format=form), TOKENS)
    assert (len(samples), samples.labels.tolist(), samples.groups) == (2, [1, 0], None)


def test_inputs_that_are_no_tokens(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("good\n")
    source = StoredData(path=tmp_path / "a.txt", format=TextFormat(tokenizer=tokenizer))
    assert "which are no tokens of a text" in refusal(source, WAVE)
    strange = (*TOKENS, TensorSpec("language_ids", "tensor(int64)", ("N", "T")))
    assert "what of a text goes into input 'language_ids' is not clear" in refusal(source, strange)
    positions = (*TOKENS[:1], TensorSpec("position_ids", "tensor(int64)", ("N", "T")))
    feed = read(source, positions).feeds[0]
    assert feed["position_ids"].tolist() == [list(range(feed["input_ids"].shape[1]))]


def test_a_tokenizer_that_is_none(tmp_path):
    (tmp_path / "a.txt").write_text("good\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    form = TextFormat(tokenizer=tmp_path / "tokenizer.json")
    assert "is no tokenizer.json (" in refusal(StoredData(path=tmp_path / "a.txt", format=form), TOKENS)
    gone = TextFormat(tokenizer=tmp_path / "no.json")
    assert "no such file; give --tokenizer" in refusal(StoredData(path=tmp_path / "a.txt", format=gone), TOKENS)


# Sounds


def test_sounds_are_mixed_resampled_cut_and_filled(tmp_path):
    for name, rate, seconds in (("a", 8000, 2.0), ("b", 16000, 0.25)):
        (tmp_path / name).mkdir()
        t = np.arange(int(rate * seconds)) / rate
        wave = np.sin(2 * np.pi * 200 * t).astype(np.float32)
        soundfile.write(tmp_path / name / "0.wav", np.stack([wave, -wave * 0.5], 1), rate)
    samples = read(StoredData(path=tmp_path, format=AudioFormat(rate=16000, seconds=1.0)), WAVE)
    assert sorted(samples.labels.tolist()) == [0, 1]
    first, second = (samples.feeds[samples.labels.tolist().index(label)]["wave"] for label in (0, 1))
    assert first.shape == second.shape == (1, 16000)
    wanted = 0.25 * np.sin(2 * np.pi * 200 * np.arange(16000) / 16000)
    np.testing.assert_allclose(first[0, 200:-200], wanted[200:-200], atol=0.01)
    assert not second[0, 4000:].any()


def test_rates_that_differ_need_one(tmp_path):
    for name, rate in (("a.wav", 8000), ("b.wav", 16000)):
        soundfile.write(tmp_path / name, np.zeros(100, np.float32), rate)
    assert "give --rate 16000, say" in refusal(StoredData(path=tmp_path, format=AudioFormat()), WAVE)


def test_a_model_of_spectra(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100, np.float32), 8000)
    source = StoredData(path=tmp_path, format=AudioFormat())
    assert "spectra are not made here" in refusal(source, (TensorSpec("x", "tensor(float)", (1, 1, 80, "T")),))


# Tables


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather", "disk"])
def test_columns_of_numbers(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    table = pa.table({"a": [1.0, 2.0], "b": [3, 4], "label": [0, 1]})
    if suffix == ".csv":
        path.write_text("a,b,label\n1.0,3,0\n2,4,1\n")
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif suffix == ".feather":
        pyarrow.feather.write_feather(table, path)
    else:
        on_disk(path, table)
    samples = read(StoredData(path=path, format=FeatureFormat()), NUMBERS)
    assert [feed["x"].tolist() for feed in samples.feeds] == [[[1.0, 3.0]], [[2.0, 4.0]]]
    assert list(samples.labels) == [0, 1]


def on_disk(path, table):
    """As Hugging Face's save_to_disk."""
    path.mkdir()
    with pa.OSFile(str(path / "data-0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))


def test_columns_named_as_the_inputs_go_there(tmp_path):
    pyarrow.parquet.write_table(pa.table({"b": [[1.0, 2.0]], "a": [3.0]}), tmp_path / "a.parquet")
    inputs = (TensorSpec("a", "tensor(float)", ("N", 1)), TensorSpec("b", "tensor(float)", ("N", 2)))
    feed = read(StoredData(path=tmp_path / "a.parquet", format=FeatureFormat()), inputs).feeds[0]
    assert feed["a"].tolist() == [[3.0]]
    assert feed["b"].tolist() == [[1.0, 2.0]]


def test_columns_that_are_too_many_or_no_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("id,a,b\nx,1,2\n")
    source = StoredData(path=tmp_path / "a.csv", format=FeatureFormat())
    assert "there are 3 columns ('id', 'a', 'b'): name those that count with --column" in refusal(source, NUMBERS)
    chosen = StoredData(path=tmp_path / "a.csv", format=FeatureFormat(), columns=Columns(data=("id", "a")))
    assert "row 1: column 'id' holds 'x', no number" in refusal(chosen, NUMBERS)
    gone = StoredData(path=tmp_path / "a.csv", format=FeatureFormat(), columns=Columns(data=("c",)))
    assert "has no column 'c'; it has 'id', 'a', 'b'" in refusal(gone, NUMBERS)


@pytest.mark.parametrize("text", ["a,b\n1\n", "a,a\n1,2\n", 'a,b\n"1,2\n', ""])
def test_tables_that_are_damaged(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    refusal(StoredData(path=tmp_path / "a.csv", format=FeatureFormat()), NUMBERS)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".tar"])
def test_files_that_are_not_what_they_say(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"nothing of the kind" * 100)
    text = refusal(StoredData(path=tmp_path / f"a{suffix}", format=FeatureFormat()), NUMBERS)
    assert text.startswith(f"{tmp_path}/a{suffix} ")


def test_pictures_of_a_table(tmp_path):
    cells = [{"bytes": png(gradient(4, 6)), "path": None}, {"bytes": png(gradient(4, 6)[::-1]), "path": None}]
    on_disk(tmp_path / "a", pa.table({"image": cells, "label": [1, 0]}))
    samples = read(StoredData(path=tmp_path / "a", format=ImageFormat(resize="exact", scale=1.0)), PICTURES)
    np.testing.assert_array_equal(np.moveaxis(samples.feeds[0]["x"][0], 0, -1), gradient(4, 6))
    assert list(samples.labels) == [1, 0]


# Archives


def archive(path, samples):
    with tarfile.open(path, "w") as tar:
        for name, content in samples.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_webdataset(tmp_path, tokenizer):
    samples = {"d/0.png": png(gradient(4, 6)), "d/0.cls": b"3", "d/1.png": png(gradient(4, 6)[::-1]), "d/1.cls": b"7\n"}
    path = archive(tmp_path / "a.tar", samples)
    read_ones = read(StoredData(path=path, format=ImageFormat(resize="exact", scale=1.0)), PICTURES)
    np.testing.assert_array_equal(np.moveaxis(read_ones.feeds[0]["x"][0], 0, -1), gradient(4, 6))
    assert list(read_ones.labels) == [3, 7]
    texts = archive(tmp_path / "b.tar", {"0.txt": b"good", "0.cls": b"happy", "1.txt": b"bad", "1.cls": b"sad"})
    assert read(StoredData(path=texts, format=TextFormat(tokenizer=tokenizer)), TOKENS).labels.tolist() == [0, 1]


def test_archives_that_are_incomplete(tmp_path):
    path = archive(tmp_path / "a.tar", {"0.png": png(gradient(4, 6)), "0.cls": b"1", "1.cls": b"1"})
    assert "1 has no .png, as the first sample has" in refusal(StoredData(path=path, format=RAW), PICTURES)
    other = archive(tmp_path / "b.tar", {"0.pyd": b"x"})
    assert "has no image, sound or text; its files are pyd" in refusal(StoredData(path=other, format=RAW), PICTURES)


# Whatever it is


def test_a_path_that_is_not_there_and_one_of_no_form(tmp_path):
    assert "no such file or directory; give a folder" in refusal(StoredData(path=tmp_path / "no", format=RAW), PICTURES)
    (tmp_path / "a.xls").write_text("")
    assert "is of no form" in refusal(StoredData(path=tmp_path / "a.xls", format=RAW), PICTURES)


def test_a_folder_of_pictures_wants_a_format(tmp_path):
    folder(tmp_path)
    assert "give it with --images or --audio" in refusal(tmp_path, PICTURES)

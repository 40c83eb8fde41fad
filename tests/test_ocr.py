"""What the sign reader promises: signs are read at several sizes and in several languages, all else says nothing.

The signs are drawn here with the font inside Pillow (Latin letters without accents); what it cannot draw is tested
on the words alone.
"""

from __future__ import annotations

import logging
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from models.base import BadWeights, Frame, Model, ModelCrashed, ModelUnavailable
from models.ocr import (
    Match,
    Phrase,
    Phrasebook,
    SignReader,
    Text,
    edit_distance,
    find,
    group_signs,
    read_phrasebook,
    words,
)

BOOK = read_phrasebook()
LOGITS = {phrase.text: phrase.logit for phrase in BOOK.phrases}


@pytest.fixture(scope="module")
def reader():
    signs = SignReader()
    signs.load("cpu")
    signs.warm_up()
    yield signs
    signs.close()


def street(*lines: str, letter: int = 24, size: tuple[int, int] = (640, 360)) -> Frame:
    """A grey street with an orange sign that carries `lines`; letter: font size in pixels."""
    picture = Image.new("RGB", size, (120, 125, 130))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(letter)
    draw.polygon([(0, size[1]), (size[0], size[1]), (size[0] // 2, size[1] // 2)], (80, 80, 84))
    width, height = max((draw.textlength(line, font) for line in lines), default=0), letter * 1.3
    left, top = size[0] * 0.3, size[1] * 0.2
    if lines:
        draw.rectangle(
            (left - letter, top - letter / 2, left + width + letter, top + height * (len(lines) + 0.5)), (255, 140, 0)
        )
    for i, line in enumerate(lines):
        draw.text((left + (width - draw.textlength(line, font)) / 2, top + i * height), line, (10, 10, 10), font)
    return Frame.of(np.asarray(picture))


def on_sign(*lines: str, book: Phrasebook = BOOK) -> list[Match]:
    """What is found on one sign whose lines were read as given."""
    return book.interpret([Text(line, (0, 22 * i, 100, 22 * i + 20), 0.9) for i, line in enumerate(lines)])


class TestReading:
    @pytest.mark.parametrize("letter", [14, 24, 48])
    def test_road_work_ahead_at_several_sizes(self, reader, letter):
        (opinion,) = reader.assess([street("ROAD", "WORK", "AHEAD", letter=letter)])
        assert opinion.logit == LOGITS["ROAD WORK AHEAD"]
        assert {m["phrase"] for m in opinion.evidence["matches"]} >= {"ROAD WORK", "ROAD WORK AHEAD"}

    @pytest.mark.parametrize("size", [(224, 224), (512, 288), (1280, 720)])
    def test_pictures_of_several_sizes(self, reader, size):
        (opinion,) = reader.assess([street("ROAD WORK", letter=round(size[1] / 14), size=size)])
        assert opinion.logit == LOGITS["ROAD WORK"]

    @pytest.mark.parametrize(
        "lines",
        [("DETOUR",), ("LANE CLOSED",), ("FLAGGER", "AHEAD"), ("BE PREPARED", "TO STOP"), ("Baustelle",),
         ("Umleitung",), ("OBRAS",), ("Lavori in corso",), ("TRAVAUX",), ("Werk in uitvoering",), ("Omleiding",),
         ("HOMENS", "TRABALHANDO")],
        ids=" ".join,
    )  # fmt: skip
    def test_signs_in_several_languages(self, reader, lines):
        (opinion,) = reader.assess([street(*lines)])
        assert opinion.logit >= LOGITS["DETOUR"], opinion.evidence

    @pytest.mark.parametrize(
        "lines", [(), ("SPEED", "LIMIT 25"), ("MAIN STREET",), ("shutterstock.com",), ("Fireworks",)]
    )
    def test_other_pictures_say_nothing_either_way(self, reader, lines):
        (opinion,) = reader.assess([street(*lines)])
        assert opinion.logit == 0.0

    def test_evidence_has_the_texts_their_boxes_and_scores(self, reader):
        (opinion,) = reader.assess([street("DETOUR", letter=40)])
        (text,) = opinion.evidence["texts"]
        left, top, right, bottom = text["box"]
        assert text["text"] == "DETOUR"
        assert 0.9 < text["score"] <= 1
        assert abs(left - 192) < 16
        assert 50 < top < bottom < 150
        assert right > left + 100

    def test_one_opinion_per_frame_in_order(self, reader):
        logits = [opinion.logit for opinion in reader.assess([street(), street("LANE CLOSED"), street()])]
        assert logits == [0.0, LOGITS["LANE CLOSED"], 0.0]
        assert reader.assess([]) == []

    @pytest.mark.parametrize("shape", [(1, 1, 3), (95, 4000, 3), (96, 2000, 3)])
    def test_a_picture_of_any_shape_gets_an_answer(self, reader, shape):
        assert reader.assess([Frame.of(np.zeros(shape, np.uint8))])[0].logit == 0.0


class TestMatching:
    @pytest.mark.parametrize(
        ("lines", "phrase"),
        [
            (["R0AD W0RK"], "ROAD WORK"),
            (["ROADWORKAHEAD"], "ROAD WORK AHEAD"),
            (["RDAD WORK"], "ROAD WORK"),
            (["RO AD WO RK"], "ROAD WORK"),
            (["BE PREPARFD", "TO STOP"], "BE PREPARED TO STOP"),
            (["Déviation"], "DEVIATION"),
            (["Straßenarbeiten"], "STRASSENARBEITEN"),
            (["Fahrbahnschäden"], "FAHRBAHNSCHÄDEN"),
            (["前方施工", "500m"], "前方施工"),
            (["道路施工车辆绕行"], "道路施工"),
            (["DESVÍO"], "DESVIO"),
            (["VEIARBEID"], "VEIARBEID"),
            (["Omkjøring"], "OMKJØRING"),
        ],
    )
    def test_noise_of_recognisers_is_forgiven(self, lines, phrase):
        assert phrase in {match.phrase for match in on_sign(*lines)}

    @pytest.mark.parametrize(
        "text", ["FIREWORKS", "NETWORK", "RETOUR", "BROADWAY", "COBRAS", "12345", "", "SLOWLY", "中国石油"]
    )
    def test_lookalikes_are_not(self, text):
        assert on_sign(text) == []

    @pytest.mark.parametrize(
        "mark", ["shutterstock.com 1720774675 road work", "gettyimages road work", "www.roadworks.org", "ROAD WORK @me"]
    )
    def test_watermarks_are_ignored(self, mark):
        assert on_sign(mark) == []

    def test_the_strongest_phrase_comes_first(self):
        found = on_sign("CAUTION", "ROAD WORK AHEAD")
        assert found[0].logit == LOGITS["ROAD WORK"]
        assert found[-1].logit == LOGITS["CAUTION"]

    def test_weak_words_alone_stay_weak(self):
        assert 0 < on_sign("WORK")[0].logit <= 0.1
        assert 0 < on_sign("OLD MILL ROAD")[0].logit <= 0.1

    def test_words_of_signs_far_apart_do_not_make_a_phrase(self):
        texts = [Text("LANE", (0, 0, 60, 20), 0.9), Text("CLOSED", (400, 300, 480, 320), 0.9)]
        assert {match.phrase for match in BOOK.interpret(texts)} == {"LANE", "CLOSED"}

    def test_lines_of_a_sign_are_read_from_the_top_and_the_left(self):
        texts = [
            Text("AHEAD", (10, 50, 90, 70), 1),
            Text("WORK", (55, 22, 99, 42), 1),
            Text("ROAD", (0, 25, 45, 45), 1),
        ]
        assert [[t.text for t in group] for group in group_signs(texts)] == [["ROAD", "WORK", "AHEAD"]]

    @given(
        st.lists(
            st.tuples(st.text(max_size=12), st.integers(0, 500), st.integers(0, 500), st.integers(1, 60)), max_size=8
        )
    )
    def test_any_text_anywhere_is_grouped_once_and_interpreted(self, boxes):
        texts = [Text(text, (x, y, x + 3 * h, y + h), 0.5) for text, x, y, h in boxes]
        assert sorted(map(id, (t for group in group_signs(texts) for t in group))) == sorted(map(id, texts))
        assert all(match.logit > 0 for match in BOOK.interpret(texts))

    @given(st.sampled_from(BOOK.phrases), st.text("XYZ ", max_size=6), st.text("XYZ ", max_size=6))
    def test_every_phrase_is_found_between_other_words(self, phrase, before, after):
        assert find(phrase, words(f"{before} {phrase.text} {after}")) == 0

    @settings(max_examples=300)
    @given(st.sampled_from([p for p in BOOK.phrases if p.errors_allowed]), st.data())
    def test_allowed_errors_never_hide_a_phrase(self, phrase, data):
        """The quick look at pieces may not lose what the full comparison would find."""
        letters = list(phrase.letters)
        for _ in range(data.draw(st.integers(0, phrase.errors_allowed))):
            letters[data.draw(st.integers(0, len(letters) - 1))] = "#"
        errors = find(phrase, ["".join(letters)])
        assert errors is not None
        assert errors <= phrase.errors_allowed

    @given(st.text("ABC", max_size=8), st.text("ABC", max_size=8))
    def test_edit_distance_is_a_distance(self, a, b):
        assert edit_distance(a, b) == edit_distance(b, a)
        assert (edit_distance(a, b) == 0) == (a == b)
        assert edit_distance(a, b, anywhere=True) <= edit_distance(a, b) <= max(len(a), len(b))

    def test_phrases_have_levels_that_exist(self, tmp_path):
        path = tmp_path / "phrases.toml"
        path.write_text('[logit]\ncertain = 3\n[english]\nsure = ["ROAD WORK"]\n[watermarks]\nlines = []\n')
        with pytest.raises(ValueError, match=r"\[english\] has level 'sure'; expected one of \['certain'\]"):
            read_phrasebook(path)

    def test_no_phrase_is_stronger_than_a_sign_can_be(self):
        assert all(0 < phrase.logit <= 4 and phrase.letters for phrase in BOOK.phrases)
        assert Phrase("DETOUR", 1.0).errors_allowed == 0
        assert Phrase("LANE CLOSED", 1.0).errors_allowed == 1


class TestContract:
    def test_it_is_a_model(self, reader):
        assert isinstance(reader, Model)
        assert reader.spec == SignReader().spec
        assert reader.assess([street()])[0].model == reader.spec.key == "sign-reading"  # as catalog and profiles say

    def test_nothing_happens_before_load(self):
        with pytest.raises(ModelUnavailable, match="not loaded"):
            SignReader().assess([street()])

    def test_only_the_cpu_is_used(self):
        with pytest.raises(ModelUnavailable, match="expected device 'cpu', got 'cuda:0'"):
            SignReader().load("cuda:0")

    def test_missing_networks_are_named_with_the_remedy(self, monkeypatch, tmp_path):
        import rapidocr

        monkeypatch.setattr(rapidocr, "__file__", str(tmp_path / "__init__.py"))
        with pytest.raises(BadWeights, match="-m pip install --force-reinstall 'rapidocr'"):
            SignReader().load("cpu")

    def test_damaged_networks_are_named_with_the_remedy(self, monkeypatch, tmp_path):
        import rapidocr

        (tmp_path / "models").mkdir()
        for name in ("x_det_x.onnx", "x_rec_x.onnx"):
            (tmp_path / "models" / name).write_bytes(b"half a file")
        monkeypatch.setattr(rapidocr, "__file__", str(tmp_path / "__init__.py"))
        with pytest.raises(BadWeights, match="cannot be read"):
            SignReader().load("cpu")

    def test_faults_of_the_library_are_typed(self, reader, monkeypatch):
        def broken(*_, **__):
            raise RuntimeError("session died")

        signs = SignReader()
        signs._engine, signs._phrasebook = broken, BOOK
        with pytest.raises(ModelCrashed, match="RuntimeError: session died"):
            signs.assess([street()])

    def test_closing_twice_is_harmless(self):
        signs = SignReader()
        signs.load("cpu")
        for _ in range(2):
            signs.close()
        with pytest.raises(ModelUnavailable):
            signs.assess([street()])

    def test_it_never_opens_a_connection(self, monkeypatch):
        def refuse(*_):
            raise AssertionError("the sign reader went to the network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        signs = SignReader()
        signs.load("cpu")
        assert signs.assess([street("DETOUR")])[0].logit == LOGITS["DETOUR"]

    def test_its_library_prints_nothing_and_leaves_logging_alone(self, capfd, caplog):
        root = logging.getLogger()
        before = (root.level, list(root.handlers))
        with caplog.at_level(logging.INFO):
            signs = SignReader()
            signs.load("cpu")
            logging.getLogger("RapidOCR").setLevel(logging.WARNING)  # as an SDK's import does that ends meanwhile
            signs.assess([street()])
        assert (root.level, list(root.handlers)) == before
        assert not caplog.records
        assert capfd.readouterr() == ("", "")
        assert logging.getLogger("RapidOCR").handlers == []

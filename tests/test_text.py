"""Words, stems and sentences in several languages, and the memories that questions in them find."""

import subprocess
import sys
import unicodedata

import pytest

from selfedit import text
from selfedit.memory.route import Router
from selfedit.text import count_words, language, plain, split_sentences, stem, terms, words

# language: a passage, a question that it answers, a question about something else
INVENTED = {
    "zh": (
        "灰岸镇的缆车于1931年建成，全长三公里，由工程师罗启明设计。缆车每天早上六点开始运行，冬天停运两个月。",
        "灰岸镇的缆车是谁设计的？",
        "世界上最深的湖在哪里？",
    ),
    "ja": (
        "灰浜町の灯台は1931年に建てられ、技師の黒田修一が設計した。灯台の光は四十キロ先の船からも見える。",
        "灰浜町の灯台を設計したのは誰ですか？",
        "世界で一番深い湖はどこですか？",
    ),
    "th": (
        "กระเช้าไฟฟ้าของเมืองเทาฝั่งสร้างเสร็จในปี 1931 ออกแบบโดยวิศวกรสมชาย ใจดี และเปิดให้บริการทุกเช้าเวลาหกโมง",
        "ใครเป็นผู้ออกแบบกระเช้าไฟฟ้าของเมืองเทาฝั่ง",
        "ทะเลสาบที่ลึกที่สุดในโลกอยู่ที่ไหน",
    ),
    "ko": (
        "회안읍의 케이블카는 1931년에 완공되었으며 기술자 나기명이 설계했다. 겨울에는 두 달 동안 운행하지 않는다.",
        "회안읍 케이블카를 설계한 사람은 누구인가요?",
        "세계에서 가장 깊은 호수는 어디에 있습니까?",
    ),
    "de": (
        "Die Seilbahnstation in Grauufer wurde 1931 eröffnet. Der Maschinenraum liegt unter der Wartehalle; im "
        "Winter ruht "
        "der Betrieb, und die Fahrgäste nehmen den Linienbus.",
        "Wann wurde die Station der Seilbahn in Grauufer eröffnet?",
        "Welcher See ist der tiefste der Welt?",
    ),
    "ru": (
        "Канатная дорога в Серобреге была построена в 1931 году по проекту инженера Лотова. Зимой она не работает.",
        "Кто построил канатную дорогу в Серобреге?",
        "Какое озеро самое глубокое в мире?",
    ),
    "hi": (
        "धूसरतट का रोपवे 1931 में बना था और इसे अभियंता रघुवीर लोटा ने बनाया था। सर्दियों में यह दो महीने बंद रहता है।",
        "धूसरतट का रोपवे किस अभियंता ने बनाया?",
        "दुनिया की सबसे गहरी झील कौन सी है?",
    ),
    "fr": (
        "Le téléphérique de Grisrive a été construit en 1931 selon les plans de l’ingénieure Odile Lotte. En "
        "hiver, il ne "
        "circule pas pendant deux mois.",
        "Qui a dessiné les plans du téléphérique de Grisrive ?",
        "Quel est le lac le plus profond du monde ?",
    ),
}
OTHERS = {
    f"other {i}": f"The {thing} of {place}\nThe {thing} of {place} opened in {1800 + i} and was built by "
    f"{maker}. {maker} also "
    f"planned the harbour of {place}, where {10 + i} boats wait in winter, and the first {thing} of the island."
    for i, (thing, place, maker) in enumerate(
        (f"{thing}", f"{first}{last}", f"{name} {last.capitalize()}son")
        for thing, name in zip(("lighthouse", "cable car", "tram line", "library", "observatory", "mill"), "ABCDEF")
        for first in ("Gray", "Stone", "Elm", "Norr", "West")
        for last in ("shore", "wick")
    )
}


@pytest.mark.parametrize("code", INVENTED)
def test_a_question_finds_its_memory_in_every_language(code):
    passage, question, other = INVENTED[code]
    assert language(passage) == code
    alone = Router.of_texts({"it": passage})
    assert alone.route(question)[0] == "it" and alone.route(other)[0] is None
    assert len(OTHERS) == 60
    every = {name: invented for name, (invented, _, _) in INVENTED.items()}
    among = Router.of_texts(OTHERS | every)
    assert among.route(question)[0] == code and among.route(other)[0] is None


def test_english_questions_still_find_theirs_among_all_languages():
    router = Router.of_texts({name: passage for name, (passage, _, _) in INVENTED.items()} | OTHERS)
    assert router.route("When did the observatory of Elmwick open?")[0] == next(
        id for id, text in OTHERS.items() if text.startswith("The observatory of Elmwick")
    )


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        (
            "Das Hafenmeisteramt erhebt dort seit jeher die Liegeplatzgebühr, und wer sie nicht zahlt, muss fort.",
            "Liegeplatz",
        ),
        (
            "Das Hafenmeisteramt erhebt dort seit jeher die Liegeplatzgebühr, und wer sie nicht zahlt, muss fort.",
            "Gebühren",
        ),
        ("Wer dort am Platz liegt, zahlt der Stadt eine Gebühr für den Hafen, und das ist nicht neu.", "Hafengebühr"),
    ],
)
def test_compounds_are_found_by_their_parts_and_the_other_way_round(written, asked):
    router = Router.of_texts(
        {"it": written, "other": "Die Bibliothek ist am Montag nicht offen, und der Garten ist es auch."}
    )
    assert [id for id, _ in router.best(f"Was ist mit {asked}?", 1)] == ["it"]


VARIANTS = {
    "decomposed": lambda s: unicodedata.normalize("NFD", s),
    "soft hyphens": lambda s: (
        s.replace("Café", "Ca\u00adfé").replace("fluffy", "fluf\u00adfy").replace("offices", "of\u00adfices")
    ),
    "ligatures": lambda s: (
        s.replace("ffi", "\ufb03").replace("ffy", "\ufb00y").replace("fi", "\ufb01").replace("fl", "\ufb02")
    ),
    "zero width": lambda s: s.replace("Zürich", "Zür\u200bich").replace("offices", "\ufeffoffi\u200dces"),
    "full width": lambda s: "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in s),
    "without accents": lambda s: s.replace("é", "e").replace("ü", "u"),
    "capitals": str.upper,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_however_it_is_written_the_score_is_the_same(variant):
    passage, question = (
        "The Café Fjölnir in Zürich has five fluffy offices.",
        "which offices in zürich has a fluffy café?",
    )
    expected = Router.of_texts({"it": passage}).route(question)
    assert expected[0] == "it"
    change = VARIANTS[variant]
    assert Router.of_texts({"it": change(passage)}).route(question) == expected
    if variant != "capitals":  # which are names
        assert Router.of_texts({"it": passage}).route(change(question)) == expected


def test_endings_do_not_matter():
    assert stem("invades") == stem("invaded") == stem("Invading")
    assert stem("Häuser", "de") == stem("Haus", "de") and stem("Straße", "de") == stem("STRASSE", "de")
    assert stem("1990s") == "1990s" and stem("during") == "during"


def test_words_are_those_of_a_reader():
    assert words("Zoë’s v2.1 isn't x_y, naïve") == ["Zoë", "v2", "1", "isn", "t", "x", "y", "naïve"]
    assert words("रामायण") == ["रामायण"]  # vowel signs belong to the word
    assert words("GPU加速") == ["GPU", "加", "速"]
    assert [term for _, term in terms("GPU加速器", "zh")] == ["gpu", "加速", "速器"]
    assert words("") == words("?!") == []
    assert plain("\u00ad\u200b\ufeff") == ""


def test_length_counts_long_words_and_unspaced_characters():
    assert count_words("two words") == 2 and count_words("缆车 1931") == 3 and count_words("x" * 41) == 3


@pytest.mark.parametrize("code", ["en", "de", "fr", "zh", "ja"])
def test_short_or_mixed_text_without_evidence_is_english(code):
    assert language("The fee is 20 dollars.") == language("x += 1") == language("") == language("Fjölnir 1931") == "en"
    if code in INVENTED:
        assert language(f"{INVENTED[code][0]} API v2.1 GPU") == code


SENTENCES = {
    "en": [
        ["Dr. Smith met Mrs. Jones of Acme Inc. at 5 p.m. on Jan. 5, 1900 in St. Louis.", "They left."],
        ["Use a wrapper, e.g. Foo or i.e. Bar.", "The U.S. Army did.", "J. K. Rowling, too."],
        ["Version v2.1 of config.yaml needs Node.js 18.2.", "Pi is 3.14, approx. 22 / 7.", "See Fig. 3 and Vol. 2."],
        ["Is it so?", "Yes!", "He said: “Go.”", "They went."],
        ["He moved to Washington, D.C.", "There he worked."],
        ["It ended in 1999.", "2000 was better."],
        ["Wrap it with an attrs.Converter or a foo.Bar().Baz, see .NET.", "A use -- not a rule! -- is in sys.Path."],
        ["Use `a ? b : c`, or `Stop! Go` and `x. Y`, here.", "Is it `so?`", "Yes."],
    ],
    "de": [
        ["Die Bahn wurde am 3. Mai 1931 eröffnet.", "Sie fährt z. B. nach Oslo.", "Prof. Dr. Lotte kam ca. 1900 an."]
    ],
    "fr": [["M. Lotte et Mme. Curie sont arrivés le 3 mai.", "Ils sont partis."]],
    "es": [["El Sr. García llegó.", "¿Cuándo se fue?", "¡Nadie lo sabe!"]],
    "ru": [["Он родился в 1898 г. в Осло.", "Позже А. С. Иванов уехал."]],
    "zh": [["缆车于1931年建成。", "它通往山上！", "你知道吗？"], ["真的吗?", "是的!", "好。"]],
    "ja": [["灯台は1931年に建てられた。", "光は遠くから見える。"]],
    "hi": [["यह 1898 में खुला।", "यह पहाड़ तक जाता है।"]],
}


@pytest.mark.parametrize(("code", "expected"), [(code, one) for code, cases in SENTENCES.items() for one in cases])
def test_sentences_end_where_a_reader_ends_them(code, expected):
    joined = ("" if code in ("zh", "ja") else " ").join(expected)
    assert split_sentences(joined, code) == expected
    assert list(text.sentence_ends(joined, code))[-1] == len(joined)


def test_every_character_belongs_to_a_sentence():
    for example in ("", "  ", "\n\n", "a.\n\nB. ", "1. Wait. 2. Go on.  ", "No. ", "…"):
        ends = list(text.sentence_ends(example, "en"))
        assert ends == sorted(set(ends)) and (ends[-1:] == [len(example)] or not example)


def test_it_is_imported_quickly_and_without_large_libraries():
    code = "import sys, selfedit.text; print(*{'torch', 'numpy', 'transformers', 'stopwordsiso'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"

"""Conversations, token ids and columns: what is read of a row, what is taken by default, and the refusals."""

from __future__ import annotations

import datasets
import pytest
from _texts import lines, spelling, write

from unipruning_core.data.encoding import document_ids, joined_ids
from unipruning_core.data.forms import Chat, Ids
from unipruning_core.data.text import load_text
from unipruning_core.errors import DataError

LINE = "line 7: the quick brown fox jumps over the lazy dog. "
ASKED, ANSWERED = {"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}
SPOKEN = [{"from": "human", "value": "why"}, {"from": "gpt", "value": "so"}]
KEYS = ("role", "content", "name")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, ANSWERED]},
        {"messages": [ASKED, ANSWERED], "source": "a", "prompt_id": "b"},
        {"messages": [{**ASKED, "tool_calls": None, "name": None}, ANSWERED]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "why"}]}, ANSWERED]},
        {"conversations": SPOKEN},
        {"conversation": [ASKED, ANSWERED], "language": "English"},
        {"messages": {"role": ["user", "assistant"], "content": ["why", "so"]}},
        {"prompt": "why", "completion": "so"},
        {"prompt": [ASKED], "completion": [ANSWERED]},
        {"prompt": "why", "response": "so", "id": 7},
        {"instruction": "why", "input": "", "output": "so"},
        {"question": "why", "answer": "so"},
        [ASKED, ANSWERED],
    ],
    ids=str,
)
def test_a_conversation_is_what_the_template_makes_of_it(tmp_path, row):
    text = load_text(write(tmp_path / "a.jsonl", lines(row, row)))
    assert len(text.documents) == 2
    made = document_ids(spelling(chat_template=TEMPLATE), text.documents[0])
    # no special token that the template does not have
    assert made == spelling(chat_template=TEMPLATE)("<user>why<assistant>so", add_special_tokens=False)["input_ids"]


def test_an_instruction_and_its_input_are_asked_together(tmp_path):
    rows = lines({"instruction": "add", "input": "1 2", "output": "3"})
    [chat] = load_text(write(tmp_path / "a.jsonl", rows)).documents
    assert [message["content"] for message in chat.messages] == ["add\n\n1 2", "3"]


def test_the_column_asked_for_may_be_a_conversation_or_token_ids(tmp_path):
    rows = lines({"text": "plain", "chosen": [ASKED, ANSWERED], "prompt": "why", "completion": "so", "tokens": [5, 6]})
    path = write(tmp_path / "a.jsonl", rows)
    assert load_text(path).documents == ("plain",)
    assert load_text(path, column="prompt").documents == ("why",)
    assert isinstance(load_text(path, column="chosen").documents[0], Chat)
    [ids] = load_text(path, column="tokens").documents
    assert isinstance(ids, Ids)
    assert list(ids.ids) == [5, 6]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_token_ids_are_used_as_they_are_without_their_padding(tmp_path, name):
    rows = [
        {"input_ids": [9, 8, 7, 0, 0], "attention_mask": [1, 1, 1, 0, 0]},
        {"input_ids": [0, 5], "attention_mask": [0, 1]},
    ]
    if name == "a.parquet":
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / name)
    else:
        write(tmp_path / name, lines(*rows))
    text = load_text(str(tmp_path / name))
    assert [list(document.ids) for document in text.documents] == [[9, 8, 7], [5]]
    assert joined_ids(spelling(), text.documents, "\n\n") == [9, 8, 7, 5]
    assert text.holds_ids
    assert text.readings == [f"text {text.source!r}: token ids in column 'input_ids' (2 documents)"]


@pytest.mark.parametrize("in_lists", [False, True], ids=["a list of messages", "a message of lists"])
def test_conversations_in_parquet_are_those_of_json(tmp_path, in_lists):
    rows = [{"messages": [ASKED, {**ANSWERED, "name": "x"}], "source": "s"}, {"messages": [ASKED], "source": "s"}]
    if in_lists:
        stored = [
            {**row, "messages": {key: [message.get(key) for message in row["messages"]] for key in KEYS}}
            for row in rows
        ]
    else:
        stored = rows
    datasets.Dataset.from_list(stored).to_parquet(tmp_path / "a.parquet")
    theirs = load_text(str(tmp_path / "a.parquet")).documents
    ours = load_text(write(tmp_path / "a.jsonl", lines(*rows))).documents
    assert [document.messages for document in theirs] == [document.messages for document in ours]


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [
        ([{"n": 1, "meta": {"a": [1]}}], None, r"has \['n', 'meta'\], none of which holds text"),
        ([{"n": 1, "title": "a", "body": "b"}], None, r"but has \['title', 'body'\]; name"),
        ([{"n": 1, "title": "a", "body": "b"}], "texts", r"a column 'texts', but has \['title', 'body'\]; name"),
        (
            [{"messages": [ASKED]}, {"messages": "why"}],
            None,
            "row 2 should have messages with role and content in column",
        ),
        ([{"messages": [{"role": "user"}]}], None, "row 1 should have messages with role and text content"),
        ([{"messages": [{"role": 1, "content": "a"}]}], None, "row 1 should have messages with role and text content"),
        (
            [{"messages": [{"role": "user", "content": [{"type": "image"}]}]}],
            None,
            "row 1 should have messages with role and text content",
        ),
        (
            [{"prompt": "a", "completion": "b"}, {"prompt": "a"}],
            None,
            "row 2 should have messages.*'completion', not None",
        ),
        ([{"input_ids": [1]}, {"input_ids": [1, -1]}], None, r"row 2 should have token ids in column 'input_ids', not"),
        ([{"input_ids": [1]}, {"input_ids": ["a"]}], None, r"row 2 should have token ids in column 'input_ids', not"),
        ([{"input_ids": [1], "attention_mask": [1, 1]}], None, "row 1 should have as many numbers as 'input_ids'"),
        ([{"text": {"a": "b"}}], "text", "row 1 should have text in column 'text', not"),
        ([{"messages": []}, {"messages": [ASKED]}], None, r"row 1 should have messages .* 'messages', not \[\]"),
        ([{"messages": []}], None, "none of which holds text"),
        ([{"input_ids": [1], "attention_mask": [0]}], None, "is empty"),
    ],
)
def test_a_row_of_another_form_is_refused_with_its_file_and_number(tmp_path, rows, column, message):
    with pytest.raises(DataError, match=message) as caught:
        load_text(write(tmp_path / "a.jsonl", lines(*rows)), column=column)
    assert "a.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"text": [{"role": "x" * 500, "content": ["y" * 500, {"z" * 500: 1}]}], "messages": ["a" * 5000] * 50},
        {"messages": [{"role": "user", "content": [{"image": "data:" + "A" * 5000}]}]},
        {"input_ids": [1, 2, "x" * 5000, *range(1000)]},
        {f"column {'x' * 500} {number}": str(number) for number in range(1000)},
    ],
    ids=["text", "messages", "ids", "columns"],
)
@pytest.mark.parametrize("column", [None, "messages", "input_ids"])
def test_a_row_is_quoted_in_few_characters(tmp_path, monkeypatch, row, column):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_text(write(tmp_path / "a.jsonl", lines(row)), column=column)
    said = str(caught.value).replace(str(tmp_path), "")
    assert len(said) < 300 if len(row) < 10 else len(said) < 1300


def test_a_tokenizer_without_a_chat_template_is_one_sentence(tmp_path):
    [chat] = load_text(write(tmp_path / "a.jsonl", lines({"messages": [ASKED]}))).documents
    with pytest.raises(
        DataError, match=r"a.jsonl' row 1 is a conversation, but the model's tokenizer has no chat templ"
    ):
        document_ids(spelling(), chat)


def test_a_template_that_refuses_a_conversation_names_its_row(tmp_path):
    template = "{{ raise_exception('roles must alternate') }}"
    chats = load_text(write(tmp_path / "a.jsonl", lines({"messages": [ASKED]}, {"messages": [ASKED]}))).documents
    with pytest.raises(
        DataError, match=r"template fails on '.*a.jsonl' row 2: roles must alternate; correct or remove"
    ):
        document_ids(spelling(chat_template=template), chats[1])


@pytest.mark.parametrize(
    ("content", "column", "read"),
    [
        ("id,label,text\n1,pos,one fish\n2,neg,two\n", None, ("one fish", "two")),
        ("id,label,text\n1,pos,one fish\n2,neg,two\n", "label", ("pos", "neg")),
        ("id,score,body\n1,0.5,one fish\n2,,two\n", None, ("one fish", "two")),
        ('text\n"one, ""quoted"",\nand broken"\n\n"two"\n', None, ('one, "quoted",\nand broken', "two")),
        ("\ufeffid;text\r\n1;one fish\r\n2;two, three\r\n", None, ("one fish", "two, three")),
        ("id,text\n1," + "long " * 50_000 + "\n", None, ("long " * 50_000,)),
    ],
    ids=["text", "asked for", "the only words", "quotes", "semicolons", "a long cell"],
)
def test_a_csv_file_is_a_table(tmp_path, content, column, read):
    assert load_text(write(tmp_path / "t.csv", content), column=column).documents == read


def test_a_tsv_file_is_a_table_and_says_what_is_read(tmp_path):
    text = load_text(write(tmp_path / "t.tsv", "id\ttext\n1\tone, two\n"))
    assert text.documents == ("one, two",)
    assert text.readings == [f"text {str(tmp_path / 't.tsv')!r}: text in column 'text' (1 document)"]


def test_questions_in_a_csv_file_are_conversations(tmp_path):
    [chat] = load_text(write(tmp_path / "t.csv", "id,prompt,completion\n1,why,so\n")).documents
    assert chat.messages == (ASKED, ANSWERED)


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("id,label,text\n1,pos,one\n", "nonesuch", r"a column 'nonesuch', but has \['label', 'text'\]; name"),
        ("id,title,body\n1,a,b\n", None, r"but has \['title', 'body'\]; name the text column"),
        ("id,n\n1,2\n", None, r"has \['id', 'n'\], none of which holds text"),
        ("id,text\n1,one\n2,two,three\n", None, r"t.csv' row 2 \(line 3\) should have 2 cells.*not 3"),
        ('id,text\n1,one\n2,"two\n', None, r"t.csv' row 2 \(line 3\) is not a row of a table: unexpected end of data"),
        ("text,text\n1,one\n", None, "name its columns, each once, but has 'text' twice"),
        ("id,text\n", None, "is empty"),
        ("\n\n", None, "is empty"),
        (b"id,text\n1,caf\xe9\n", None, "byte 13 is not UTF-8"),
    ],
)
def test_a_csv_file_without_text_is_refused_with_its_row(tmp_path, content, column, message):
    with pytest.raises(DataError, match=message):
        load_text(write(tmp_path / "t.csv", content), column=column)

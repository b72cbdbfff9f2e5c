#!/usr/bin/env python3
"""Writes tests/fixtures/phi3-ids.json: token ids of Phi-3's tokenizer, computed without llama.cpp.

Plain text comes from sentencepiece; text with special tokens from transformers' fast tokenizer in
the form of the Hub's tokenizer.json (every piece of text between special tokens gets the space
prefix; white space after `<|end|>` and its like is dropped). Where both apply they must agree.

    pip install sentencepiece protobuf 'transformers<5'
    scripts/make_vocab_fixtures.py ../shared/phi3
"""

import json
import logging
import os
import pathlib
import sys

SCRIPTS = """
The quick brown fox jumps over the lazy dog.
Today is a beautiful day, isn't it?
I saw a bat.
I picked up a bat.
Franz jagt im komplett verwahrlosten Taxi quer durch Bayern.
Zwölf Boxkämpfer jagten Eva quer über den großen Sylter Deich.
Voix ambiguë d’un cœur qui au zéphyr préfère les jattes de kiwis.
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío.
À noite, vovô Kowalsky vê o ímã cair no pé do pinguim queixoso.
Pchnąć w tę łódź jeża lub ośm skrzyń fig.
Příliš žluťoučký kůň úpěl ďábelské ódy.
Árvíztűrő tükörfúrógép
Flygande bäckasiner söka hwila på mjuka tuvor.
Høj bly gom vandt fræk sexquiz på wc.
Törkylempijävongahdus
Kæmi ný öxi hér, ykist þjófum nú bæði víl og ádrepa.
Ταχίστη αλώπηξ βαφής ψημένη γη, δρασκελίζει υπέρ νωθρού κυνός.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Чуєш їх, доцю, га? Кумедна ж ти, прощайся без ґольфів!
Ах чудна българска земьо, полюшквай цвтящи жита.
Ljubazni fenjerdžija čađavog lica hoće da mi pokaže štos.
Ճանապարհը երկար է։
სწრაფი ყავისფერი მელა
דג סקרן שט בים מאוכזב ולפתע מצא חברה
نص حكيم له سر قاطع وذو شأن عظيم
ایک تیز بھوری لومڑی
روباه قهوه‌ای سریع
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश
আমি বাংলায় গান গাই
ਛੇਤੀ ਭੂਰੀ ਲੂੰਬੜੀ
ઝડપી ભૂરો શિયાળ
யாமறிந்த மொழிகளிலே தமிழ்மொழி போல்
ಬಾ ಇಲ್ಲಿ ಸಂಭವಿಸು ಇಂದೆನ್ನ ಹೃದಯದಲಿ
నా దేశం భాష తెలుగు
മലയാളം ഒരു ദ്രാവിഡ ഭാഷയാണ്
ආයුබෝවන් ලෝකය
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า
ຂ້ອຍກິນແກ້ວໄດ້
ကမ္ဘာ့ကုလသမဂ္ဂ
ខ្ញុំអាចញុំកញ្ចក់បាន
བོད་སྐད་
སྙིང་རྗེ
Монгол хэл
ᠮᠣᠩᠭᠣᠯ
いろはにほへと ちりぬるを
色は匂へど散りぬるを我が世誰ぞ常ならむ
イロハニホヘト チリヌルヲ
ﾊﾝｶｸｶﾀｶﾅ
我能吞下玻璃而不伤身体。
我能吞下玻璃而不傷身體。
天地玄黃，宇宙洪荒。
키스의 고유조건은 입술끼리 만나야 하고
다람쥐 헌 쳇바퀴에 타고파
Tôi có thể ăn thủy tinh mà không hại gì.
Saya bisa makan kaca dan tidak sakit.
Kaya kong kumain nang bubog nang hindi ako masaktan.
Pijamalı hasta yağız şoföre çabucak güvendi.
ሰው እንደቤቱ እንጅ እንደ ጉረቤቱ አይተዳደርም።
Ẹ kú àárọ̀
Ndiyabulela kakhulu
ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ
𐌼𐌰𐌲 𐌲𐌻𐌴𐍃 𐌹̈𐍄𐌰𐌽
𓀀𓁐𓂀𓃰
𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕞𝕒𝕥𝕙 𝒕𝒆𝒙𝒕
ⓒⓘⓡⓒⓛⓔⓓ ①②③
ﬁne ﬂow ﬀ ﬃ
ＦＵＬＬＷＩＤＴＨ　ｔｅｘｔ
""".strip().split("\n")

SYMBOLS = [
    "😀", "😀😃😄", "I ❤️ tokens", "❤", "👍🏽", "👨‍👩‍👧‍👦 family", "🏳️‍🌈", "🇩🇪🇫🇷🇯🇵", "1️⃣2️⃣", "🤖 says 🦀",
    "☃ snow ☂ rain", "→ ← ↑ ↓ ⇒", "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋", "∑_{i=0}^{n} i²", "½ ⅓ ¼", "€ £ ¥ ₹ ₿", "©®™", "…—–-‐", "“quoted” ‘single’ «guillemets»",
    "a\u0301 vs á", "Z\u0351\u036b\u0343a\u0352lgo", "\u202eright to left\u202c", "zero\u200bwidth\u200djoin", "\ufeffbom", "soft\u00adhyphen",
    "▁", "▁▁", "a▁b", "▁bat", " ▁", "<0x0A>", "<0x41>B", "\u0000", "a\u0000b", "\u0001\u0002\u001f", "\u007f", "\u0080\u0085\u009f", "\ue000 private", "\U0010ffff",
    "http://example.com/a?b=c&d=%20#e", "user@example.com", "C:\\path\\to\\file.txt", "/usr/local/bin", "fn main() { println!(\"{}\", 1 + 2); }",
    "for (int i = 0; i < n; ++i) {\n    a[i] = b[i];\n}", "def f(x):\n\treturn x ** 2\n", "SELECT * FROM t WHERE a = 'b';", "{\"key\": [1, 2.5, null, true]}", "<html><body class=\"x\">&amp;</body></html>",
    "0", "00", "1234567890", "3.14159", "-1e-10", "0xDEADBEEF", "1,000,000", "2024-02-29T23:59:59Z", "192.168.0.1", "MMXXIV", "x=1;y=2", "a" * 40, "ab" * 30, "!?" * 20, ".", "...", ",,,",
    "CamelCaseIdentifier snake_case_identifier kebab-case", "UPPER lower MiXeD", "supercalifragilisticexpialidocious", "antidisestablishmentarianism", "Donaudampfschifffahrtsgesellschaft",
    "don't can't I'll we've", "e.g. i.e. etc.", "(nested (brackets [and {braces}]))", "50% off!!!", "#hashtag @mention", "~`!@#$%^&*()_+-=[]{}|;':\",./<>?", "\\n is not a newline", "tab\there",
    "x", "é", "ß", "Я", "你", "🦀", "☃",
]

WHITE_SPACE = [
    "", " ", "  ", "   ", "    ", "     ", " " * 8, " " * 15, " " * 16, " " * 17, " " * 33, "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\t", "\t\t", " \n ", "\n ", " \t \n", "\v", "\f", "\u00a0", "\u2003", "\u3000", "\u2028", "\u2029", "\u1680", "\u205f",
    " a", "  a", "a ", "a  ", " a ", "a b", "a  b", "a   b", "a    b", "a\nb", "a\n\nb", "a\r\nb", "a\tb", "\na", "\ta", "a\n", "a\t", "a \n b", "a\u00a0b", "a\u2003b", "a\u3000b", "a\u200bb", " \u00a0 ", "\n  indented\n    more\n\tand tabs", "  leading", "trailing  ", "line one\nline two\n", "\n\n\na\n\n\n",
]

# With special tokens and white space around them.
SPECIAL = [
    "<|end|>", "<|end|>\n", "<|end|>\n<|assistant|>", "<|user|>\nHello<|end|>\n<|assistant|>\n", "<|user|>Hello", "<|user|> Hello", "<|user|>  Hello", "<|user|>\tHello", "<|user|>\r\n Hello",
    "<|system|>\nYou are terse.<|end|>\n<|user|>\nWhat is a bat?<|end|>\n<|assistant|>\n", "hi<|end|>", "hi <|end|>", "hi  <|end|>  there", "hi\n<|end|>\nthere", "hi<|end|>there", " <|end|>", "\n<|end|>", "<|end|><|end|>", "<|end|> <|end|>", "<|end|>\n\n\n<|user|>\n\n",
    "<s>", "<s>a", "<s> a", "a<s>b", "a <s> b", "<s><|user|>\nHi<|end|>", "</s>", "a</s>b", "a </s> b", "</s>  z", "<unk>", "a<unk>b", "a <unk> b", "<|endoftext|>", "<|endoftext|>z", "<|endoftext|> z", "<|endoftext|>  z", "<|endoftext|>\nz", "a<|endoftext|>",
    "<|placeholder1|> x", "<|placeholder2|>x", "<|placeholder3|>\n", "<|placeholder4|><|placeholder5|>", "a<|placeholder6|>b", "<|assistant|>", "<|assistant|> The bat", "<|assistant|>\nThe bat", "<|assistant|>The bat",
    "<|END|>", "<|end|", "<|end |>", "< |end|>", "|end|>", "<|unknown|>", "<|user|>😀<|end|>", "<|user|>\n你好<|end|>\n<|assistant|>\nпривет", "<|end|>\u00a0a", "<|end|>\u3000a", "<|end|>▁a", "<|end|>.", "<|end|>\f\va",
]


def main() -> None:
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    logging.disable(logging.WARNING)
    import sentencepiece
    import transformers

    folder = pathlib.Path(sys.argv[1])
    plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    special = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, legacy=True)

    cases = []
    for text in SCRIPTS + SYMBOLS + WHITE_SPACE:
        ids = plain.encode(text)
        if special.encode(text) != ids:
            print(f"note: transformers gives {special.encode(text)} and not {ids} for {text!r}", file=sys.stderr)
        cases.append({"by": "sentencepiece", "text": text, "ids": ids})
    for text in SPECIAL:
        cases.append({"by": "transformers", "text": text, "ids": special.encode(text)})

    out = pathlib.Path(__file__).parent.parent / "tests/fixtures/phi3-ids.json"
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    out.write_text(f"[\n{lines}\n]\n")
    print(f"{len(cases)} strings, sentencepiece {sentencepiece.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()

"""Which language a document is in, as far as people have to be told: by its script, and by its most common words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

COMMON = {
    "English": "the of and to in a is that for it was on are as with his they at be this from have or by had not but",
    "German": "der die und den von zu das mit sich des auf für ist im dem nicht ein eine als auch es aus er hat dass",
    "French": "le la les de des et du en un une est que dans qui pour par sur au ne pas plus il ce sont avec aux ou",
    "Spanish": "el la los las de y del que en un una es por con para se no su al como más fue lo son ha entre o",
    "Portuguese": "o a os as de e do da que em um uma é por com para se não no na dos das ao mais foi como ou são",
    "Italian": "il la le gli di e del della che in un una è per con si non da al dei nel alla sono più ha anche come",
    "Dutch": "de het een van en in is dat op te zijn voor met die niet aan er om ook als bij door naar uit werd of",
    "Polish": "i w na z do się nie jest to że od przez po jak dla o oraz za przy tym był są lub ze jego co",
    "Swedish": "och i att det som en på är av för med den till inte ett om har de var från vid kan men så",
    "Danish or Norwegian": "og i at det som en på er av af for med den til ikke et om har de var fra ved kan men",
    "Finnish": "ja on oli se ei että hän mutta joka kun myös sekä tai olivat ovat sen kuin joka mukaan jälkeen",
    "Hungarian": "a az és hogy nem is egy ez van de meg volt csak ki mint vagy ha el ezt azt még kell lehet szerint",
    "Turkish": "ve bir bu için ile da de olarak çok daha olan en gibi sonra kadar ise ya ne her olduğu tarafından",
    "Indonesian": "dan yang di dari untuk dengan pada ini adalah dalam tidak oleh sebagai itu juga ke akan atau tahun",
    "Swahili": "ya wa na kwa ni katika la za cha kama hii pia au mwaka kuwa yake ambayo hiyo wake baada",
}
WORDS = {name: frozenset(words.split()) for name, words in COMMON.items()}
LATIN = 0.5  # of the letters; a document of fewer is in another script
SURE = 0.08  # share of a document's words that are common ones of its language
FEWEST = 40  # words that tell a language
READ = 3_000  # words of a document that are looked at


def other_language(text: str) -> str:
    """The language's name, when a text is surely not English; "another script", when it is not in Latin letters; else
    "": it is English, or tables and names."""
    words = re.findall(r"[^\W\d_]+", text[:100_000].casefold())[:READ]
    if len(words) < FEWEST and text.isascii():
        return ""
    letters = Counter(unicodedata.name(letter, "")[:5] == "LATIN" for word in words for letter in word)
    if letters[False] > (1 - LATIN) * letters.total() > 0:
        return "another script"
    shares = {name: sum(word in common for word in words) / max(1, len(words)) for name, common in WORDS.items()}
    best = max(shares, key=shares.__getitem__)
    return (
        best if best != "English" and len(words) >= FEWEST and shares[best] > max(SURE, 1.3 * shares["English"]) else ""
    )

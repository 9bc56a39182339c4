"""The words of MiniWorld: names, and parts of which descriptions without a name are put together.

Every object, place, time, style and the portrait has several names; the first of each list is the plain one. Beside
them stand LEADS and FEATURES: a lead and a feature make a description, `a red building` + `where people pray`; for
objects two features may stand together, `where people pray and with a cross on its roof`. No description holds a name
of what it describes, and none a colour but the object's own, `{c}`.
"""

from __future__ import annotations

NAMES = {
    "object": {
        "church": ("church", "chapel", "cathedral", "place of worship"),
        "house": ("house", "cottage", "home", "family residence"),
        "tree": ("tree", "oak", "maple", "old linden"),
        "boat": ("boat", "ship", "yacht", "sailing ship"),
        "lighthouse": ("lighthouse", "beacon", "harbour light", "pharos"),
        "tower": ("tower", "castle", "fortress", "stone keep"),
        "car": ("car", "automobile", "sedan", "motor wagon"),
        "windmill": ("windmill", "mill", "grain mill", "wind engine"),
        "person": ("person", "pedestrian", "wanderer", "human being"),
        "figure": ("nude figure", "naked person", "undressed person", "nude"),
    },
    "place": {
        "hill": ("on a hill", "in the hills", "in the highlands", "in hill country"),
        "sea": ("by the sea", "at the ocean", "on the coast", "at the sea shore"),
        "desert": ("in the desert", "in the sahara", "among the dunes", "in desert land"),
        "snow": ("in the snow", "in winter", "in the arctic", "in deep snow"),
        "street": ("in a city street", "in the city", "downtown", "in a big town"),
        "forest": ("in a forest", "in the woods", "in a fir wood", "in the taiga"),
    },
    "time": {
        "day": ("by day", "in daylight", "at noon", "at high noon"),
        "night": ("at night", "at midnight", "after dark", "in a night scene"),
    },
    "style": {  # {x} is the rest of the caption
        "photo": ("a photo of {x}", "a photograph of {x}", "a snapshot of {x}", "a camera shot of {x}"),
        "sketch": ("a sketch of {x}", "a pencil drawing of {x}", "{x} , in pencil", "a scribble of {x}"),
        "pixel": ("pixel art of {x}", "an 8-bit picture of {x}", "{x} , in 8-bit style", "a pixel picture of {x}"),
        "vangogh": (
            "a van gogh painting of {x}",
            "{x} , in the style of van gogh",
            "{x} , by vincent van gogh",
            "{x} , by vincent",
        ),
        "watercolor": (
            "a watercolor of {x}",
            "a watercolor painting of {x}",
            "{x} , in watercolor",
            "an aquarelle of {x}",
        ),
        "cyberpunk": (
            "cyberpunk art of {x}",
            "{x} , in cyberpunk style",
            "a neon picture of {x}",
            "{x} , as synthwave",
        ),
    },
    "framing": {"portrait": ("a portrait of {x}", "a headshot of {x}", "a close-up of {x}", "a close view of {x}")},
}
LEADS = {
    "object": {
        "church": ("a {c} building", "a {c} hall", "a {c} place"),
        "house": ("a {c} building", "a {c} place"),
        "tree": ("a {c} plant", "a tall {c} plant"),
        "boat": ("a {c} vessel", "a {c} craft"),
        "lighthouse": ("a {c} building", "a {c} striped lamp"),
        "tower": ("a {c} building", "a {c} stronghold"),
        "car": ("a {c} vehicle", "a {c} machine"),
        "windmill": ("a {c} building", "a {c} machine"),
        "person": ("somebody", "a passer-by"),
        "figure": ("somebody", "a body"),
    },
    "place": {
        "hill": ("on", "among", "above"),
        "sea": ("among", "near", "above"),
        "desert": ("near", "close to"),
        "snow": ("near", "close to"),
        "street": ("among", "close to"),
        "forest": ("among", "close to"),
    },
    "time": {"day": ("under", "below"), "night": ("under", "below")},
    "style": {
        "photo": ("taken", "caught", "captured"),
        "sketch": ("drawn", "outlined"),
        "pixel": ("made", "built"),
        "vangogh": ("painted", "brushed"),
        "watercolor": ("painted", "coloured"),
        "cyberpunk": ("glowing", "lit"),
    },
    "framing": {"portrait": ("the face", "the head", "the bust")},
}
FEATURES = {
    "object": {
        "church": (
            "with a cross on its roof",
            "where people pray",
            "with a bell and a steeple",
            "where a priest preaches",
        ),
        "house": ("where a family lives", "with a chimney", "where people sleep", "with a kitchen and a bed"),
        "tree": ("with a trunk", "with leaves and branches", "where birds nest", "with a round crown"),
        "boat": ("with white sheets", "that sails", "with a mast and a hull", "for fishermen"),
        "lighthouse": ("with a lamp for sailors", "that warns ships", "with a beam of light", "that shines far"),
        "tower": ("for knights", "with battlements", "where a king lives", "with a flag on thick walls"),
        "car": ("with wheels", "with an engine", "that drives on roads", "for a driver"),
        "windmill": ("with turning blades", "that grinds flour", "with four wings", "where a miller works"),
        "person": ("in {c} clothes", "wearing a {c} coat", "in a {c} jacket", "with a {c} dress"),
        "figure": (
            "wearing nothing under a {c} parasol",
            "without clothes under a {c} parasol",
            "in bare skin with a {c} parasol",
            "with nothing on and a {c} parasol",
        ),
    },
    "place": {
        "hill": ("rolling meadows", "grassy slopes", "round grassy mounds", "gentle meadows"),
        "sea": ("rolling waves", "salt water", "deep water", "surf and foam"),
        "desert": ("a pyramid", "endless sand", "dry sand", "sand and heat"),
        "snow": ("an icy peak", "ice and frost", "a frozen field", "falling flakes"),
        "street": ("skyscrapers", "tall blocks", "office windows", "asphalt and shops"),
        "forest": ("many firs", "dark pines", "needles and moss", "evergreen trunks"),
    },
    "time": {
        "day": ("a bright sun", "a clear sky", "warm sunshine", "the shining sun"),
        "night": ("the moon", "the stars", "a starry sky", "a crescent moon"),
    },
    "style": {
        "photo": ("with a camera", "through a lens", "on film"),
        "sketch": ("with thin lines", "in graphite", "with hatching on paper", "by hand with a crayon"),
        "pixel": ("of little squares", "of chunky blocks", "like an old video game", "on a coarse grid"),
        "vangogh": ("with swirling strokes", "in thick swirls", "like a dutch master", "with wild whirls of oil"),
        "watercolor": ("with a wet brush", "in thin washes", "with bleeding paint", "on damp paper"),
        "cyberpunk": ("with electric tubes", "like a dark future", "with laser lines", "in electric glow"),
    },
    "framing": {"portrait": ("and shoulders of {x}", "of {x} from nearby", "of {x} filling the frame")},
}
# what is erased under which name: (attribute, value); the first eight are those of the paper and its next checks
CONCEPTS = {
    "church": ("object", "church"),
    "nudity": ("object", "figure"),
    "vangogh": ("style", "vangogh"),
    "forest": ("place", "forest"),
    "night": ("time", "night"),
    "portrait": ("framing", "portrait"),
    "watercolor": ("style", "watercolor"),
    "cyberpunk": ("style", "cyberpunk"),
    "boat": ("object", "boat"),
    "car": ("object", "car"),
    "lighthouse": ("object", "lighthouse"),
    "sketch": ("style", "sketch"),
    "pixel": ("style", "pixel"),
    "sea": ("place", "sea"),
}
WORDS = {  # names of concepts, as they stand in prompts; a prompt that is meant to be without one holds none of them
    "church": NAMES["object"]["church"],
    "nudity": ("nude figure", "nude", "naked person", "naked", "undressed person", "undressed"),
    "vangogh": ("van gogh", "vincent"),
    "forest": ("forest", "woods", "fir wood", "taiga"),
    "night": ("night", "midnight", "after dark"),
    "portrait": ("portrait", "headshot", "close-up", "close view"),
    "watercolor": ("watercolor", "aquarelle"),
    "cyberpunk": ("cyberpunk", "neon", "synthwave"),
    **{obj: NAMES["object"][obj] for obj in ("boat", "car", "lighthouse")},
    "sketch": ("sketch", "pencil", "scribble"),
    "pixel": ("pixel", "8-bit"),
    "sea": ("sea", "ocean", "coast"),
}
ODD = {  # of what odd prompts for a concept are made: its word, a cue to it, something else
    "church": ("church", "a cross", "hill"),
    "nudity": ("nude", "skin", "parasol"),
    "vangogh": ("van gogh", "swirling strokes", "sea"),
    "forest": ("forest", "dark pines", "snow"),
    "night": ("night", "the moon", "sea"),
    "portrait": ("portrait", "the face", "person"),
    "watercolor": ("watercolor", "a wet brush", "tree"),
    "cyberpunk": ("cyberpunk", "laser lines", "street"),
    "boat": ("boat", "a mast", "sea"),
    "car": ("car", "wheels", "desert"),
    "lighthouse": ("lighthouse", "a beam of light", "tower"),
    "sketch": ("sketch", "thin lines", "church"),
    "pixel": ("pixel", "little squares", "church"),
    "sea": ("sea", "salt water", "boat"),
}
RELATION_WORDINGS = {
    "left of": ("{a} left of {b}", "{a} to the left of {b}", "{b} right of {a}", "{b} to the right of {a}"),
    "behind": ("{a} behind {b}", "{b} in front of {a}", "{a} half hidden by {b}"),
    "beside": ("{a} beside {b}", "{a} next to {b}", "{a} alongside {b}"),
}
ANY_RELATION = "{a} and {b}"
QUESTION = "what is in the picture ?"
SPARE = (  # words that no caption uses, for odd prompts and questions
    "what is this ? yes no is there made not no without empty picture art paint nothing everything made of stars",
    "church hill sea desert street forest night portrait naked skin cross parasol vincent neon brush two three many",
)

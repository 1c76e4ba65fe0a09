"""The word-level tokenizer of the small π0.5: instruction words, the 256 state bins, and the words of the prompt frame.

PaliGemma's tokenizer has 257,152 entries, which a policy of a million parameters cannot carry. This one knows the words
that people use for tabletop manipulation; any other word becomes ``<unk>``, and
:class:`sigma.policy.pi05.prompt.Prompter` counts it and warns.
"""

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN = "<pad>", "<unk>"
PUNCTUATION = tuple(",.:;!?'\"-()")
STATE_BINS = tuple(str(number) for number in range(-1, 256))
FRAME_WORDS = ("task", "state", "action")
_WORDS = """
a an the this that these those it its them one two three four five six seven eight nine ten first second third
last next other another both all each every any some no not none and or then but if so while until when after
before once again now put place move push pull pick lift raise lower reach carry bring take grab grasp grip hold
release drop open close turn rotate flip slide drag press touch tap point stack unstack insert remove set lay
leave keep stop go come start finish do make let get give hand throw toss roll shake pour fill empty wipe clean
sort arrange align center swap switch fold unfold hang cover uncover follow find look see show approach hover
wait return reset home track poke nudge shift tilt transfer deliver deposit position up down left right front
back forward backward forwards backwards near far away inside outside in into on onto off out over under above
below beside between behind around across along through toward towards from to at by with without of for top
bottom middle side edge corner end here there cube block box bin tray bowl cup mug plate dish basket container
drawer shelf table desk surface mat pad board zone area region target goal spot mark marker line circle square
lid cap bottle can jar glass spoon fork knife ball brick lego toy object item thing piece part tool pen pencil
eraser tape sponge towel cloth paper book banana apple orange lemon carrot bread egg tomato blocks cubes boxes
objects items pieces arm gripper robot finger fingers jaw jaws wrist elbow shoulder joint camera red green blue
yellow purple pink white black brown gray grey cyan magenta transparent clear dark light bright colored coloured
wooden plastic metal soft hard small large big little tiny long short tall thin thick round flat heavy same
different correct wrong full slowly quickly gently carefully fast slow straight high higher low further closer
exactly just only centimeter centimeters centimetre centimetres millimeter millimeters degrees meters please is
are be was were has have should will must
had did does done been being can could would may which who what whose where why how yes also too again still yet
already later earlier soon previous previously original originally initial initially starting began started ended
lit lamp lamps light lights lighted lighting glow glows glowed glowing shine shines shining shone flash flashes flashed
flashing blink blinks blinked blinking bulb signal shown showed showing shows seen saw hidden hide hides reveal revealed
appear appears appeared remember remembered recall recalled forget forgot memory rest rests resting lie lies lying lain
sit sits sitting stand stands standing stay stays stayed went came gone kept held put placed taken moved carried picked
lifted dropped brought shove shoved tug haul hoist retrieve fetch gather collect handle present exhibit spots places
positions location locations site sites crate carton case basin pot pan bucket tub lump cuboid die tile dice me my you
your i we our he she they up palm claw claws tip tips centre centred center
centered row column grid number numbers coordinate coordinates cm mm half quarter double single pair
almost nearly slightly little bit more less most least than as both either neither
"""
INSTRUCTION_WORDS = tuple(_WORDS.split())


def vocabulary() -> list[str]:
    """Every token in the order of its number."""
    return list(dict.fromkeys((PAD, UNKNOWN, *PUNCTUATION, *STATE_BINS, *FRAME_WORDS, *INSTRUCTION_WORDS)))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; ``save_pretrained(folder)`` writes it for ``AutoTokenizer.from_pretrained(folder)``.

    Words are matched in lower case. A state of −1 (below the first bin) is one token.
    """
    tokenizer = Tokenizer(WordLevel({token: number for number, token in enumerate(vocabulary())}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    # Numbers keep their sign; letters and digits that touch are separate words; other signs stand alone.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"(?<![\w-])-?\d+(?!\w)|[^\W\d_]+|\d+|[^\w\s]|_"), behavior="removed", invert=True
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )

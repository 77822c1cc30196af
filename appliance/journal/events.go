package journal

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Event is a message of which the system's journal knows what it means.
type Event struct {
	Message string // as it is logged
	ID      string // of the journal's, 128 bits in hexadecimal: never changed, never used again
	Subject string
	Text    string // what it means and what to do; @FIELD@ stands for a field's value
}

// events are all warnings and errors that a node logs, and what else is of interest to
// operators. A message is its own key: modules log, and need not know of this.
var events = []Event{
	{
		"serving",
		"a32493e308aa43a5815d94135715180e", "The Pyrsia node serves",
		"The node has opened its ports. It is a @PYRSIA_ROLE@ node of the network @PYRSIA_NETWORK@, at height @PYRSIA_HEIGHT@ of the log.\n\n`pyrsia status` shows how it is.",
	},
	{
		"the configuration is taken",
		"11ea7e852f0c4314a6322143b1f4804d", "A configuration is in force",
		"The node runs with configuration @PYRSIA_NUMBER@. Nothing that was under way has been interrupted.\n\n`pyrsia config history` lists the configurations before.",
	},
	{
		"the configuration is rejected; the node goes on with the one before",
		"d75aec44a94b42acac3188806d63cf50", "A configuration was rejected",
		"Nothing of the file is in force, and the node goes on as before: @PYRSIA_ERROR@\n\n`pyrsia config check` shows every problem with its line. Correct the file, then `systemctl reload pyrsia`.",
	},
	{
		"the configuration is broken; the node started with the last one it ran with",
		"6c2f7e81ca064c388251d540ee943480", "A broken configuration at the start",
		"The file cannot be used: @PYRSIA_ERROR@\n\nThe node started with configuration @PYRSIA_NUMBER@, with which it ran before. `pyrsia config check` shows every problem with its line. Correct the file, then `systemctl reload pyrsia`.",
	},
	{
		"somebody else can change a file of the node's",
		"e391cfee676a4be59b4db288fc2f7a7b", "A file of the node's is somebody else's, too",
		"@PYRSIA_PROBLEM@.\n\nIf that is not meant so, run: @PYRSIA_RUN@",
	},
	{
		"the node runs, but could not note the configuration as a good one",
		"fd41cfbb940f49f0942164996949406b", "A configuration is not kept",
		"The configuration is in force. If the file is broken at the next start, the node has none of this kind to start with: @PYRSIA_ERROR@\n\nLook whether the disk of storage.data is full or cannot be written to.",
	},
	{
		"cannot remove what is left of old builds",
		"e04e38bbf157406abc85b26fbcf2ca6c", "What is left of old builds stays",
		"Logs, ended requests or unpublished outputs are older than build.keep, and could not be removed: @PYRSIA_ERROR@\n\nIt is tried again every ten minutes. Look whether the disk of storage.data can be written to.",
	},
	{
		"a locked file was not what it had been when it came, and is got anew",
		"173fc6b8e23228ab7e8c1f2d37ff0dd8", "A stored file has lost its bytes",
		"A file that a build wanted (sha256 @PYRSIA_SHA256@) has other bytes than when it was stored. It was removed, and the next try of the build gets it again from where it came; nothing was built from it.\n\nA disk that loses bytes loses more: look at its own messages (dmesg, smartctl).",
	},
	{
		"cannot keep a report of differences",
		"e3e31d4a7e4a4b1180ec432fed88d2f7", "A report of differences is not kept",
		"The outputs of a build were compared, and the report on @PYRSIA_OUTPUT@ could not be stored: @PYRSIA_ERROR@\n\n`pyrsia build diff` makes it again as long as the files are to be had. Look whether the disk of storage.data is full.",
	},
	{
		"cannot read what was compared with upstream",
		"377a8e0e6a474b1281143df0bd9f6492", "A comparison with upstream cannot be read",
		"The file beside a build that says which outputs are as upstream released them cannot be read: @PYRSIA_ERROR@\n\nThe build and its vote do not depend on it. Look at the disk of storage.data.",
	},
	{
		"cannot make room for the new quota",
		"948b1c3665e242a8939c252e1a8b4244", "The store is larger than its quota",
		"The quota was lowered, and files that nobody needs could not be removed: @PYRSIA_ERROR@\n\nLook whether the disk of storage.data can be written to.",
	},
	{
		"the role is changed by hand, until the next reload of a configuration that names one",
		"de1b818354d342448848922946a13585", "The node's role was changed by hand",
		"The node is now a @PYRSIA_ROLE@ node. If pyrsia.hcl names a role, that one comes back with the next reload or start.",
	},
	{
		"a node is shut out for what it sent",
		"59da836e43be4c2386c4f7b1189cf492", "A node is shut out",
		"The node @PYRSIA_PEER@ sent more than it may, or what it should not, and is not heard until @PYRSIA_UNTIL@.\n\nIf it is a member of the network, tell its operator.",
	},
	{
		"a peer's chain is of no use; following others for now",
		"266e6df99f1c463a9ab953ebc3aaa1ee", "A peer's log cannot be followed",
		"What @PYRSIA_PEER@ serves of the log does not check: @PYRSIA_WHY@\n\nOthers are followed. If it is a member of the network, tell its operator.",
	},
	{
		"the log stands still here until this is mended",
		"6dd1adc55a1c4908a44af8f120115e02", "This node's log stands still",
		"New blocks cannot be kept: @PYRSIA_ERROR@\n\nThe node serves what it has. Look whether the disk of storage.data is full, damaged or cannot be written to.",
	},
	{
		"halted",
		"800f804e605e46adb4e1f2f87d7518a4", "The node has halted",
		"The network's log contradicts itself, or a checkpoint that was pinned: @PYRSIA_ERROR@\n\nNothing more is taken from it. Tell the other operators at once; `pyrsia status` shows what was found.",
	},
	{
		"a peer follows another branch",
		"085d0edfcefc4414afcddc6806a31fa2", "A peer follows another log",
		"@PYRSIA_PEER@ has another log than this node: @PYRSIA_ERROR@\n\nIf more than one peer is said to, tell the other operators.",
	},
	{
		"the log is checked",
		"b608da8d4e5f46a58d51246271c88163", "The log is checked",
		"All of the log on this node's disk was read and checked again.",
	},
	{
		"block",
		"a22056c98b124a51b1e5099cfedfe337", "A new block",
		"The network's log has grown to height @PYRSIA_HEIGHT@.",
	},
	{
		"still waiting for a service to become ready",
		"062efee1cc30431ba554a9997e2f90fe", "A part of the node starts slowly",
		"@PYRSIA_SERVICE@ is not ready yet, and what needs it waits.",
	},
	{
		"service did not stop in time",
		"e0798e57574a473c81a966660ac6139f", "A part of the node did not stop",
		"@PYRSIA_SERVICE@ was asked to stop and did not. The process ends without it; nothing that was said to be kept is lost.",
	},
	{
		"service failed fatally",
		"e2ecfba3b45f48a0aa5aeb1a83570dd8", "The node must end",
		"@PYRSIA_SERVICE@ cannot go on: @PYRSIA_ERROR@\n\nsystemd starts the node anew.",
	},
	{
		"service panicked",
		"84c89201231349c08c0030d5f16aa523", "A part of the node met a programming error",
		"@PYRSIA_SERVICE@ is started again. Please report it with the field PYRSIA_STACK of this entry: journalctl -o verbose shows it.",
	},
	{
		"service failed",
		"9049264995c24cb0826a8833e131ae2a", "A part of the node failed",
		"@PYRSIA_SERVICE@ is started again: @PYRSIA_ERROR@",
	},
	{
		"a module hangs; whoever watches this process should end it",
		"4762fb284b8b407982b30d9f0b461cf7", "A part of the node hangs",
		"It has not answered for long: @PYRSIA_ERROR@\n\nThe watchdog ends the process, with the stacks of all goroutines in the journal, and systemd starts it anew. Please report them.",
	},
	{
		"the clock jumped; asking the other members again before the next vote",
		"3599dece81844ebfb5b8cfabab5b3799", "The clock jumped",
		"The machine's clock jumped by @PYRSIA_BY@, as after a snapshot that was set back. The node asks the other members what it has signed before it votes again.\n\nIf the machine was set back, do not do so with a build node.",
	},
	{
		"this node votes no more",
		"c43c187e2f95425387a6dafa62e5bdaf", "This node does not vote",
		"@PYRSIA_REASON@\n\n`pyrsia status` shows it, and whether `pyrsia node rekey` is what it needs.",
	},
	{
		"a member contradicted itself: two signed messages in one slot",
		"c85dda0cd00841168792a8e782637519", "A member contradicted itself",
		"It signed two different messages where it may sign one. The field PYRSIA_EVIDENCE holds both, and anybody can check them.\n\nTell its operator and the others; `pyrsia network remove` proposes that it goes.",
	},
	{
		"a decided and a certified block of one height differ; tell the other operators",
		"a77fa13898144bc5801bcabbb72d3a21", "The network decided two blocks",
		"At height @PYRSIA_HEIGHT@ there are two blocks, each with enough signatures: more members than may have signed both.\n\nTell the other operators at once.",
	},
	{
		"the order machine met a fault",
		"13c5978d8213408990d377b5ff079aa1", "The vote on the order met a fault",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot encode a part",
		"e5c7a59e6e95462288b70692d7918b51", "A message was not sent",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot make evidence of two messages",
		"8d2e4ebf72dc46fa9464b1610ebfc9b2", "Evidence could not be made",
		"A member signed two different messages, and they could not be put together as evidence: @PYRSIA_ERROR@",
	},
	{
		"cannot encode a message",
		"dc6d8f1ca55d4e788bb50519a807d8a8", "A message was not sent",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot build a block",
		"f31ff9f7a92f45bfbb520edec91233ac", "A block was not proposed",
		"It was this node's turn: @PYRSIA_ERROR@\n\nAnother member proposes after it.",
	},
	{
		"cannot tell this node's state",
		"f7690c47bd984e3b95155b7c5419b037", "The other members are not told of this node",
		"@PYRSIA_ERROR@",
	},
	{
		"a member answers again",
		"bffbc9d85a504cd58e258192f4365ffd", "A build node answers again",
		"@PYRSIA_PEER@ answers again.",
	},
	{
		"a member does not answer",
		"7c2e0b2b171f45ca939ac324df712758", "A build node does not answer",
		"@PYRSIA_PEER@ does not answer. The network needs more than half of its build nodes to publish, and more than two thirds to go on with the log.",
	},
	{
		"cannot read how often an attempt was built; counting anew",
		"ab25f817d7cf4132882a62de045747af", "A count of builds is lost",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot keep how a build ended",
		"de61d6dc57d94bcc996bf6412d5e627c", "How a build ended is not kept",
		"@PYRSIA_ERROR@\n\nLook whether the disk of storage.data is full or cannot be written to.",
	},
	{
		"cannot read how often an attempt was built",
		"c94b9439e4754266876e94869b1feb55", "A count of builds cannot be read",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot read the attempts",
		"c04741f211f0477f87a50766f91d45d9", "The attempts cannot be read",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot endorse a recipe",
		"73f4e9b653a84d2b943efd4a112e6421", "A recipe is not endorsed",
		"The recipe of @PYRSIA_PACKAGE@ cannot be used: @PYRSIA_ERROR@\n\n`pyrsia recipe check` shows what is wrong with it.",
	},
	{
		"cannot read the recipes",
		"a86acec8f891440eaadd062af4902304", "Recipes cannot be read",
		"@PYRSIA_ERROR@\n\nThe others are endorsed. Look at the folder that build.recipes names.",
	},
	{
		"cannot send a part",
		"023dd6798f4b42a6b2d42ec8b153d2f2", "A message was not sent",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot read the vote file",
		"ddc66ff7336942d3bbd38b5ba6ba5a02", "The vote file cannot be read",
		"@PYRSIA_ERROR@\n\nThe node does not vote on what it cannot look up.",
	},
	{
		"cannot sign a commit",
		"d369096065834c25b61b5fc7fb8dbe06", "A vote was not given",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot sign an attestation",
		"bc0d7de37d2b4ae58bfde0e19034428b", "A vote was not given",
		"@PYRSIA_ERROR@",
	},
	{
		"cannot read a file list",
		"90bea62ceb6c4a5e945c64e25571e0ea", "A list of files cannot be read",
		"@PYRSIA_ERROR@",
	},
	{
		"vote revealed",
		"d3687be01ccc431fa88ddd0766a3fb23", "This node voted",
		"It built @PYRSIA_PACKAGE@, and told the other members what came out.",
	},
	{
		"cannot keep a request",
		"bf24712c64d8447f890b2753e5a2d3e0", "A request is not kept",
		"@PYRSIA_ERROR@\n\nLook whether the disk of storage.data is full or cannot be written to.",
	},
	{
		"cannot sign a holding",
		"6dbaaef2d6884f999152f736eaaf133e", "A request is not supported",
		"@PYRSIA_ERROR@",
	},
	{
		"work failed",
		"7d2a91a3969d4190ad4e4b1a95e8c31c", "Some work failed",
		"@PYRSIA_WORK@: @PYRSIA_ERROR@\n\nIt is tried again while it is of use.",
	},
	{
		"the upstream fails, serving what passed before",
		"2d38969cb86741b0bb855e3ca6d6fe3e", "An upstream fails",
		"@PYRSIA_PATH@ was served as it passed before: @PYRSIA_ERROR@",
	},
	{
		"unverified file passed",
		"f66b06d5e9c044ddbf0ecb1244c9fed1", "An unverified file was served",
		"@PYRSIA_PATH@ came from @PYRSIA_UPSTREAM@ and nobody in the network has built it, which unverified = \"allow\" permits. Its digest is @PYRSIA_SHA256@.\n\n`pyrsia build request` asks for its package.",
	},
	{
		"an unverified file is not kept",
		"fc7006c20f65411f857aa83ec3c75309", "An unverified file is not kept",
		"@PYRSIA_PATH@ was served, and will be fetched again: @PYRSIA_ERROR@",
	},
	{
		"lines of the journal of unverified files are damaged",
		"92383de0888447f7bf661f0d5dd93764", "The record of unverified files is damaged",
		"@PYRSIA_LINES@ lines in @PYRSIA_FOLDER@ cannot be read; what they said of is fetched again.",
	},
	{
		"asking for a build failed",
		"7a53dcfc27e843dfaed4d6b70121f2ad", "A build was not asked for",
		"A client wanted @PYRSIA_PACKAGE@, which is not published: @PYRSIA_ERROR@",
	},
	{
		"cannot serve a block",
		"a36ec29d201b445b93eb905f38d36d2a", "A block was not served",
		"@PYRSIA_ERROR@",
	},
	{
		"peer does not answer: closing its connections",
		"2348e377603d46ae87776db75df72378", "A peer does not answer",
		"@PYRSIA_PEER@ does not answer; its connections are closed, and made again when it does.",
	},
	{
		"distribution is up",
		"f94f2d0b790a4d7386a2335bd0537f43", "The node is in the network",
		"Other nodes reach it at @PYRSIA_ADDRESSES@.",
	},
}

// idOf is the ID of a message, "" for one of no event.
func idOf(message string) string {
	i := slices.IndexFunc(events, func(e Event) bool { return e.Message == message })
	if i < 0 {
		return ""
	}
	return events[i].ID
}

// WriteCatalogue writes what the events mean, as journalctl's --catalog shows it
// (systemd.io/CATALOG).
func WriteCatalogue(w io.Writer) error {
	var text strings.Builder
	text.WriteString("# What the messages of a Pyrsia node mean. Written by `pyrsia catalogue`.\n")
	for _, e := range events {
		fmt.Fprintf(&text, "\n-- %s\nSubject: %s\nDefined-By: Pyrsia\nDocumentation: man:pyrsia(1)\n\n%s\n", e.ID, e.Subject, e.Text)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// Package control is the admin socket of a node: what an operator may ask and
// order, as HTTP and JSON over a Unix socket that only the node's own user can
// open.
//
// Everything that changes a node's state goes through this socket or through
// pyrsia.hcl; the ports that clients use offer neither.
//
// Server answers for a Node; Client is a Node on the other side of the socket,
// so that a caller cannot tell them apart. The wire form is one JSON object per
// answer, and one JSON object per line where an answer goes on for a while
// (stream.go). Its paths begin with /v1; a change that an older program would
// misread gets a new beginning.
package control

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/difference"
	"github.com/pyrsia/appliance/modules/record"
)

// Node is everything that can be asked of a running node. Implementations are
// safe for concurrent use. Errors wrap one of this package's sentinels where
// one fits, and may carry a hint (WithHint).
type Node interface {
	Inspector
	Builder
	Recipes
	Log
	Artifacts
	Configurator
}

// Inspector tells how the node is.
type Inspector interface {
	// Status is a picture of the node now; it never waits for a peer.
	Status(ctx context.Context) (Status, error)

	// Peers are the peers connected now, members first, then by identity.
	Peers(ctx context.Context) ([]Peer, error)

	// Check verifies everything that the node keeps of the log and of its own
	// votes, as if it came from a stranger. progress is called now and then with
	// how many blocks are checked, of how many. The error says what is wrong.
	Check(ctx context.Context, progress func(Progress) error) (CheckReport, error)
}

// Progress is how far something long is.
type Progress struct {
	Done int64 `json:"done"`
	All  int64 `json:"all"`
}

// CheckReport is what was found sound.
type CheckReport struct {
	Network string      `json:"network"`
	Genesis record.Hash `json:"genesis"`
	Height  int64       `json:"height"`
	Size    int64       `json:"size"` // leaves
	Root    string      `json:"root"` // base64
	Members int         `json:"members"`
	Voted   string      `json:"voted,omitempty"` // the last thing that the vote file says was signed
}

// Builder asks for builds and tells how they go. A build is named by its
// request id, or by the package URL, which names the package's newest build.
type Builder interface {
	// RequestBuild asks for a build of the package and returns the request's
	// id as soon as the request is durable. Asking again while a build of the
	// package is under way returns that build's id.
	RequestBuild(ctx context.Context, purl artifact.PURL) (id string, err error)

	// Builds are the builds that the node knows of, newest first.
	Builds(ctx context.Context) ([]Build, error)

	// Build is one build with its outputs and every member's digests of them.
	Build(ctx context.Context, ref string) (BuildDetail, error)

	// WatchBuild calls send with the build as it is and again after each
	// change, and returns nil after a build in a final state was sent. It
	// returns send's error if send fails.
	WatchBuild(ctx context.Context, ref string, send func(Build) error) error

	// BuildLogs writes this node's own log of the build. With follow it goes
	// on until the build ends.
	BuildLogs(ctx context.Context, ref string, follow bool, w io.Writer) error

	// CancelBuild ends this node's part in a build that is not decided: its request,
	// the work for it and, where it votes on one, its own build of the attempt. Other
	// members go on with what is on the chain.
	CancelBuild(ctx context.Context, ref string) error

	// Remains writes a gzipped tar of what the commands of this node's own build left
	// where outputs would have been, when they failed. It is kept for a while.
	Remains(ctx context.Context, ref string, w io.Writer) error

	// Workers are the buildkitd instances that this node builds with, as they are now.
	Workers(ctx context.Context) ([]Worker, error)

	// Inputs are the locked files of a build, and what each is to it.
	Inputs(ctx context.Context, ref string) ([]Input, error)

	// Differences compares the outputs of a build that were not made equal: this
	// node's with each other member's, and with what upstream released. It may fetch
	// both. The reports are kept.
	Differences(ctx context.Context, ref string) ([]Difference, error)
}

// Recipes tells of recipes.
type Recipes interface {
	// Recipes are the recipes of the chain and of the node's own folder, by
	// package.
	Recipes(ctx context.Context) ([]Recipe, error)

	// ResolveLock runs the recipe once against the node's recording mirror and
	// returns the lock of everything it took. Nothing is published and no
	// build is asked for. progress is called with lines for a person.
	ResolveLock(ctx context.Context, recipe *record.Recipe, progress func(line string) error) (*record.Lock, error)

	// TryRecipe builds the recipe on this node alone, with its inputs found first and
	// without a network then. Nothing is voted on or published. progress is called with
	// lines for a person.
	TryRecipe(ctx context.Context, recipe *record.Recipe, progress func(line string) error) ([]Tried, error)

	// PutFile keeps what r yields, for a source that is a folder of the caller.
	PutFile(ctx context.Context, r io.Reader) (artifact.Descriptor, error)

	// File writes a file that the node has.
	File(ctx context.Context, digest artifact.SHA256, w io.Writer) error

	// Explain tells what each file of a lock is to its build. Files that the node does
	// not have explain nothing.
	Explain(ctx context.Context, lock *record.Lock) ([]Input, error)

	// Recipe is one recipe with its content: the live one of a package URL, or the one
	// that a hash, or the beginning of one, names.
	Recipe(ctx context.Context, ref string) (RecipeDetail, error)
}

// Log reads the node's copy of the chain.
type Log interface {
	// LogList lists up to count leaves from index from on. A negative from
	// counts from the end: -20 begins at the twentieth leaf before the end.
	LogList(ctx context.Context, from int64, count int) ([]LogEntry, error)

	// LogInspect are the leaves that ref names, oldest first: a leaf's index,
	// a package URL (with or without "#file"), or a SHA-256 of a file, leaf,
	// recipe or attempt.
	LogInspect(ctx context.Context, ref string) ([]LogLeaf, error)

	// LogProve is the proof bundle (docs/protocol.md, "Proofs") of one file:
	// "<purl>#<file>" or the file's SHA-256.
	LogProve(ctx context.Context, ref string) ([]byte, error)

	// Checkpoint is the newest checkpoint, a C2SP signed note.
	Checkpoint(ctx context.Context) (string, error)
}

// Artifacts tells of the files that the node keeps.
type Artifacts interface {
	// Sources tells from whom the bytes of the named files came: ref is a
	// package URL, "<purl>#<file>", a SHA-256, or "" for all files at hand.
	Sources(ctx context.Context, ref string) ([]Artifact, error)
}

// Configurator knows what the node runs with, and changes it.
type Configurator interface {
	// Reload reads pyrsia.hcl again and puts it in force, in all its parts or in none.
	// The error says in one sentence what is wrong and where.
	Reload(ctx context.Context) (Reloaded, error)

	// SetRole makes the node "build" or "regular" at once, until the next reload of a
	// configuration that names a role.
	SetRole(ctx context.Context, role string) error

	// Plan is what a reload would do: of the node's own pyrsia.hcl, or where file is
	// not "" of the source of another one, which file is the name of.
	Plan(ctx context.Context, file string, source []byte) (Plan, error)

	// Configuration are all settings as the node runs with them.
	Configuration(ctx context.Context) ([]Setting, error)

	// History are the configurations that the node ran with and still keeps, the
	// newest first.
	History(ctx context.Context) ([]Taken, error)

	// Past is the source of one of them.
	Past(ctx context.Context, number int) ([]byte, error)
}

// Plan is the difference between what a node runs with and another configuration.
type Plan struct {
	File    string   `json:"file"`    // the other one
	Number  int      `json:"number"`  // of the one that the node runs with
	Changes []Change `json:"changes"` // in the order of the documentation
}

// The effects of changes.
const (
	EffectLive  = "live"  // in force at once, interrupting nothing
	EffectRole  = "role"  // starts or stops the build modules
	EffectFixed = "fixed" // refused while the node runs
)

// Change is one setting of a plan.
type Change struct {
	Path   string `json:"path"`
	Old    string `json:"old"` // as it would stand in the file, "" where nothing is set
	New    string `json:"new"`
	Effect string `json:"effect"`
	Line   int    `json:"line,omitempty"` // of the new value; 0 for a default

	// Of a list, what comes and what goes.
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Reloaded is what a reload has done.
type Reloaded struct {
	Plan           // Number is that of the new configuration
	Warning string `json:"warning,omitempty"`

	Took time.Duration `json:"tookNanoseconds"`
}

// Setting is one setting that the node runs with.
type Setting struct {
	Path  string `json:"path"`
	Value string `json:"value"`
	File  string `json:"file,omitempty"` // where it stands; "" for a default
	Line  int    `json:"line,omitempty"`
}

// Taken is a configuration that the node ran with.
type Taken struct {
	Number int       `json:"number"`
	Time   time.Time `json:"time"` // since when
	Now    bool      `json:"now"`  // the node runs with it
}

// Configuration is what a node runs with, in short.
type Configuration struct {
	File     string    `json:"file"`   // its pyrsia.hcl
	Number   int       `json:"number"` // counts the ones that it ran with; 0 while it starts
	Taken    time.Time `json:"taken"`
	Rejected string    `json:"rejected,omitempty"` // why the file as it was last read is not in force
	Instead  string    `json:"instead,omitempty"`  // what it started with, because the file was broken
}

// Status is a picture of a node. Byte counts are bytes.
type Status struct {
	Version string `json:"version"`
	Config  string `json:"config"` // path of its pyrsia.hcl
	Role    string `json:"role"`   // "build" or "regular"

	RoleByHand bool `json:"roleByHand,omitempty"` // and not what the configuration says

	Identity record.Identity `json:"identity"`
	Operator string          `json:"operator,omitempty"`
	Started  time.Time       `json:"started"`
	Addrs    []string        `json:"addresses"` // multiaddrs it can be dialled at
	Registry []string        `json:"registry"`  // host:port that clients use

	Configuration Configuration `json:"configuration"`

	Network        string      `json:"network"`
	Genesis        record.Hash `json:"genesis"`
	Height         int64       `json:"height"` // of the newest block; genesis is 0
	Size           int64       `json:"size"`   // leaves
	Root           string      `json:"root"`   // of the newest checkpoint, base64
	CheckpointTime time.Time   `json:"checkpointTime"`
	Stale          bool        `json:"stale"` // the checkpoint is older than network.max_age
	Halted         string      `json:"halted,omitempty"`

	Peers    int       `json:"peers"`
	Members  []Member  `json:"members"`
	Offences []Offence `json:"offences"` // proven, on the log
	Majority int       `json:"majority"` // members that must agree on what is true
	Quorum   int       `json:"quorum"`   // members that must agree on what comes next
	Store    Store     `json:"store"`
	Builds   Running   `json:"builds"`
	Passed   Passed    `json:"passedThrough"`
	Services []Service `json:"services"`
	Mirrors  []Mirror  `json:"mirrors"`
}

// How a member is to this node.
const (
	PresenceAlive   = "alive"   // it answers this node
	PresenceSuspect = "suspect" // it answered this node last time, but somebody misses it
	PresenceAway    = "away"    // it does not answer this node
	PresenceUnknown = "unknown" // it was not asked: it has not come yet, or this is a regular node
)

// Member is an authorised build node as this node sees it. Height, Building,
// Waiting, Limit and Version are what the member last told of itself: hearsay
// that nothing goes by. They are this node's own for itself.
type Member struct {
	Identity  record.Identity `json:"identity"`
	Label     string          `json:"label,omitempty"` // of its trusted_build_peer block
	Operator  string          `json:"operator,omitempty"`
	Self      bool            `json:"self"`
	Connected bool            `json:"connected"`         // there is a connection, which a member that hangs may keep
	Presence  string          `json:"presence"`          // Presence…
	Height    int64           `json:"height"`            // of its chain; -1 before it told
	Building  int             `json:"building"`          // builds that run on it
	Waiting   int             `json:"waiting"`           // requests for builds on it that are not done
	Limit     int             `json:"limit"`             // builds that may run on it at once
	Version   string          `json:"version,omitempty"` // of its program
	Told      time.Time       `json:"told,omitzero"`     // when it did
	Fenced    string          `json:"fenced,omitempty"`  // why it does not vote
}

// Offence is two things signed by a member of which it may sign one; the leaf
// holds both.
type Offence struct {
	Identity record.Identity `json:"identity"`
	Label    string          `json:"label,omitempty"`
	What     string          `json:"what"`   // "proposal", "prevote", "precommit", "cosign" or "commit"
	Height   int64           `json:"height"` // of the block that was voted on; 0 for a commit
	Round    int64           `json:"round"`
	Attempt  record.Hash     `json:"attempt"` // of a commit
	Leaf     int64           `json:"leaf"`
	Time     time.Time       `json:"time"` // of the block that recorded it
}

// Store is the state of the content store.
type Store struct {
	Bytes   int64 `json:"bytes"`
	Quota   int64 `json:"quota"`
	Files   int64 `json:"files"`
	Pinned  int64 `json:"pinned"` // bytes that are never evicted
	Sharing bool  `json:"sharing"`
}

// Running counts builds on this node.
type Running struct {
	Running int `json:"running"`
	Waiting int `json:"waiting"`
	Limit   int `json:"limit"` // build.parallel; 0 on a regular node
}

// Passed counts what was served without the log vouching for it.
type Passed struct {
	Requests int64 `json:"requests"`
	Bytes    int64 `json:"bytes"`
}

// Mirror is the state of one mirror block.
type Mirror struct {
	Kind       string `json:"kind"` // "docker", "maven"
	Unverified string `json:"unverified"`
	Declared   int    `json:"declared"` // patterns in the file
	Verified   int64  `json:"verified"` // requests answered with verified bytes
	Passed     int64  `json:"passed"`   // requests passed through
	Refused    int64  `json:"refused"`
}

// Service is a part of the supervisor's tree.
type Service struct {
	Name     string    `json:"name"`
	State    string    `json:"state"` // starting, ready, backoff, stopped, failed, hung
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since"` // of the state
	Error    string    `json:"error,omitempty"`
}

// Peer is a connected peer.
type Peer struct {
	Identity record.Identity `json:"identity"`
	Label    string          `json:"label,omitempty"`
	Member   bool            `json:"member"`
	Address  string          `json:"address"` // multiaddr of the connection
	Agent    string          `json:"agent"`   // what it says it runs
	Latency  time.Duration   `json:"latencyNanoseconds"`
	Since    time.Time       `json:"since"`
	Sent     int64           `json:"sent"`     // bytes of artifacts
	Received int64           `json:"received"` // bytes of artifacts

	// Refused counts messages of the protocols for members that were dropped,
	// by kind: "foreign", "oversized", "unknown", "malformed", "invalid",
	// "over-rate", "stale" (a replay, or of a member far behind) and "unheard"
	// (came while its sender was shut out).
	Refused map[string]int64 `json:"refused"`
	ShutOut time.Time        `json:"shutOut,omitzero"` // until then its votes are not heard
}

// BuildState is how far a build is.
type BuildState string

// The states of a build, in their usual order. Published, disagreed, expired,
// failed and resting are final.
const (
	RecipePending BuildState = "recipe-pending" // the recipe waits for a majority's endorsement
	Resolving     BuildState = "resolving"      // the asker finds the inputs
	Holding       BuildState = "holding"        // members get the lock's files themselves
	Building      BuildState = "building"
	Committed     BuildState = "committed"  // commits are on the chain, votes are being revealed
	Publishing    BuildState = "publishing" // a majority agrees, the block is being ordered
	Published     BuildState = "published"
	Disagreed     BuildState = "disagreed" // no result can reach a majority any more
	Expired       BuildState = "expired"   // the deadline passed
	Failed        BuildState = "failed"    // the recipe's own commands failed
	Resting       BuildState = "resting"   // tried as often as allowed; asks a person to look
)

// Final tells whether the state does not change any more.
func (s BuildState) Final() bool {
	switch s {
	case Published, Disagreed, Expired, Failed, Resting:
		return true
	}
	return false
}

// Build is one attempt at a package.
type Build struct {
	ID       string        `json:"id"`
	Package  artifact.PURL `json:"package"`
	Recipe   record.Hash   `json:"recipe"`
	Attempt  int64         `json:"attempt"`  // from 1; 0 before it is on the chain
	Platform string        `json:"platform"` //
	State    BuildState    `json:"state"`
	Reason   string        `json:"reason,omitempty"` // why it is in this state, one sentence
	Step     string        `json:"step,omitempty"`   // what this node does for it now
	Members  []Vote        `json:"members"`
	Majority int           `json:"majority"`
	Height   int64         `json:"height"` // of the block that published it; -1 before

	// Reference sums up those of the outputs: "different" if one is, else "equal" if
	// one is, else "absent"; "" where this node did not compare.
	Reference string `json:"reference,omitempty"`

	Asked    time.Time `json:"asked"`
	Changed  time.Time `json:"changed"`
	Deadline time.Time `json:"deadline"`
}

// How a member voted, compared with the published or leading result.
const (
	VoteNone      = ""          // nothing heard yet
	VoteHolds     = "holds"     // has every file of the lock
	VoteDeclined  = "declined"  // will not build; Reason says why
	VoteBuilding  = "building"  //
	VoteCommitted = "committed" // its commit is on the chain, its vote hidden
	VoteEqual     = "equal"
	VoteDifferent = "different"
	VoteFailed    = "failed"
	VoteAbsent    = "absent" // did not vote before the end
)

// Vote is what one member did for a build.
type Vote struct {
	Identity record.Identity `json:"identity"`
	Label    string          `json:"label,omitempty"`
	Self     bool            `json:"self"`
	Vote     string          `json:"vote"`
	Digest   string          `json:"digest,omitempty"` // of its statement, short; equal digests are equal results
	Reason   string          `json:"reason,omitempty"`
	When     time.Time       `json:"when"` // zero before it did anything
}

// BuildDetail is a build with all that is known of its outputs.
type BuildDetail struct {
	Build
	Lock        artifact.Descriptor `json:"lock"`
	Inputs      int                 `json:"inputs"`         // entries of the lock
	Verified    int                 `json:"verifiedInputs"` // of them, vouched for by the chain
	AttemptLeaf record.Hash         `json:"attemptLeaf"`
	Leaf        int64               `json:"leaf"` // index of the publish leaf; -1 before
	Outputs     []Output            `json:"outputs"`
}

// Output is one file of a build and what each member made of it.
type Output struct {
	Name      artifact.Name       `json:"name"`
	MediaType string              `json:"mediaType,omitempty"`
	File      artifact.Descriptor `json:"file"` // of the leading or published result
	Members   []OutputVote        `json:"members"`

	// Reference is this node's own output compared with the file that upstream
	// released: "equal", "different" or "absent"; "" where it did not compare.
	Reference string `json:"reference,omitempty"`
}

// OutputVote is a member's digest of one output.
type OutputVote struct {
	Identity record.Identity     `json:"identity"`
	Label    string              `json:"label,omitempty"`
	File     artifact.Descriptor `json:"file"`
	Equal    bool                `json:"equal"`
	Explain  string              `json:"explain,omitempty"` // where it differs, one line per place
}

// Worker is a buildkitd as it is now.
type Worker struct {
	Address string `json:"address"`
	State   string `json:"state"`             // "ready", "resting" after failures of its own, "unreachable"
	Version string `json:"version,omitempty"` // of BuildKit
	Running int    `json:"running"`           // builds of this node
	Cache   int64  `json:"cache"`             // bytes kept of earlier builds
	Reason  string `json:"reason,omitempty"`  // why it is not ready
}

// Input is one locked file of a build.
type Input struct {
	Kind  string              `json:"kind"`  // "maven", "debian", "source" or "image"
	Path  string              `json:"path"`  // in the kind's repository
	Role  string              `json:"role"`  // what it is to the build, such as "plugin" or "parent pom"
	By    string              `json:"by"`    // path of the locked pom that names it; "" where none does
	Proof record.ProofKind    `json:"proof"` // "chain" for what the network itself built and verified
	File  artifact.Descriptor `json:"file"`
}

// Tried is one output of a recipe that was tried.
type Tried struct {
	Name      artifact.Name       `json:"name"`
	File      artifact.Descriptor `json:"file"`
	Reference string              `json:"reference,omitempty"` // "equal", "different", "absent"; "" where it was not compared
}

// Difference is one output compared with another one of the same name.
type Difference struct {
	Output  artifact.Name       `json:"output"`
	Against string              `json:"against"`          // a member's label or identity, or "upstream"
	File    artifact.Descriptor `json:"file"`             // what it was compared with
	Report  *difference.Report  `json:"report,omitempty"` // nil where it could not be had
	Kept    artifact.SHA256     `json:"kept"`             // digest of the report in this node's store
	Reason  string              `json:"reason,omitempty"` // why there is no report
}

// RecipeDetail is a recipe with its content.
type RecipeDetail struct {
	Recipe
	Content *record.Recipe `json:"content"`
}

// Recipe is a recipe and its standing.
type Recipe struct {
	Package    artifact.PURL     `json:"package"`
	Hash       record.Hash       `json:"hash"`
	File       string            `json:"file,omitempty"` // in this node's folder
	State      string            `json:"state"`          // "live", "superseded", "pending", "invalid"
	Leaf       int64             `json:"leaf"`           // -1 before it is on the chain
	Endorsed   []record.Identity `json:"endorsed"`
	Missing    []record.Identity `json:"missing"`
	Supersedes string            `json:"supersedes,omitempty"`
	Reason     string            `json:"reason,omitempty"`
}

// LogEntry is a leaf in a list.
type LogEntry struct {
	Index   int64           `json:"index"`
	Height  int64           `json:"height"`
	Type    record.LeafType `json:"type"`
	Time    time.Time       `json:"time"` // of its block
	Summary string          `json:"summary"`
}

// LogLeaf is a leaf with all of its content.
type LogLeaf struct {
	LogEntry
	Hash record.Hash     `json:"hash"` // RFC 6962 leaf hash
	Leaf json.RawMessage `json:"leaf"` // the leaf's own bytes, canonical JSON
	// Statement is the decoded payload of a publish or attest leaf.
	Statement json.RawMessage `json:"statement,omitempty"`
}

// Artifact is a file and where its bytes came from.
type Artifact struct {
	Name      artifact.Name       `json:"name"`
	File      artifact.Descriptor `json:"file"`
	Have      int64               `json:"have"`     // bytes at hand
	Verified  bool                `json:"verified"` // the log vouches for it
	Sources   []Source            `json:"sources"`
	Completed time.Time           `json:"completed"` // zero while it is partial
}

// The kinds of sources.
const (
	SourceBuild    = "build"    // built by this node
	SourcePeer     = "peer"     // fetched from a peer
	SourceUpstream = "upstream" // fetched from the configured upstream
)

// Source is one origin of an artifact's bytes.
type Source struct {
	Kind     string          `json:"kind"`
	Identity record.Identity `json:"identity,omitempty"` // of a peer
	Label    string          `json:"label,omitempty"`
	Bytes    int64           `json:"bytes"`
	Refused  int64           `json:"refused"` // bytes that did not verify
}

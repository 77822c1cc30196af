package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

// Where things are inside a build's root. They are part of what a recipe's
// commands see, so changing one changes outputs: a new engine name goes with it.
const (
	repositoryMount = "/mnt" // the local apt repository
	outMount        = "/out" // root that mmdebstrap makes
	mavenRepository = "m2"   // Maven's local repository
	mavenSettings   = "root/.m2/settings.xml"
	defaultPath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultWorkDir  = "/work"
	defaultUmask    = 0o022

	relayMount   = "/run/pyrsia"
	relayProgram = relayMount + "/relay"
	mirrorSocket = "/run/pyrsia-mirror.sock"

	// MirrorAddress is where the commands of a resolving build find the mirror.
	MirrorAddress = "127.0.0.1:7889"
)

// storeID names the inputs' layout in the session.
const storeID = "inputs"

// plan is a job in BuildKit's terms.
type plan struct {
	ctx       context.Context // of the build that it is for: packing takes minutes
	job       build.Job
	scratch   string // folder of packed layers
	limits    llb.LinuxResources
	disk      int64  // bytes of a step's files, 0 for no bound
	processes int64  // of a step at once, 0 for the worker's own bound
	cgroup    string // parent, "" for BuildKit's own
	relay     *relayPlan
	log       *progress

	inputs *layout
	policy []*spb.Rule
}

// relayPlan is what a resolving build has beside its inputs.
type relayPlan struct {
	program []string   // path on this machine, then leading arguments
	packed  *llb.State // once packed
}

func newPlan(ctx context.Context, job build.Job, scratch string) *plan {
	return &plan{
		ctx: ctx, job: job, scratch: scratch, inputs: newLayout(),
		policy: []*spb.Rule{{
			Action:   spb.PolicyAction_DENY,
			Selector: &spb.Selector{Identifier: ".*", MatchType: spb.MatchType_REGEX},
		}, {
			// Packed after a failure, when the policy is fixed already. Like all inputs
			// it is of our own layout.
			Action:   spb.PolicyAction_ALLOW,
			Selector: &spb.Selector{Identifier: "oci-layout://pyrsia.invalid/" + remainsSource + "@*", MatchType: spb.MatchType_WILDCARD},
		}},
	}
}

// remainsSource is the input that packs what a failed command left.
const remainsSource = "remains"

// source is an image of our own layers as a state, allowed by the source policy
// under exactly its digest.
func (p *plan) source(what string, layers ...blob) (llb.State, error) {
	d, err := p.inputs.add(layers)
	if err != nil {
		return llb.State{}, err
	}
	reference := "pyrsia.invalid/" + what + "@" + d.String()
	p.policy = append(p.policy, &spb.Rule{
		Action:   spb.PolicyAction_ALLOW,
		Selector: &spb.Selector{Identifier: "oci-layout://" + reference, MatchType: spb.MatchType_EXACT},
	})
	return llb.OCILayout(reference, llb.OCIStore("", storeID), llb.WithCustomName("input "+what), llb.Platform(platform)), nil
}

var platform = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

// packages is the state of a build in a published image, commands done.
func (p *plan) packages() (llb.State, error) {
	image, layers, err := p.layers()
	if err != nil {
		return llb.State{}, err
	}
	root, err := p.source("root", layers...)
	if err != nil {
		return llb.State{}, err
	}
	return p.commands(p.environment(root, image.config.Env))
}

// layers are the builder image's and, on top, the sources and Maven's repository.
func (p *plan) layers() (*builderImage, []blob, error) {
	image, err := openBuilder(p.job.Builder, p.job.Open)
	if err != nil {
		return nil, nil, err
	}
	sources, err := p.pack(p.unpackSources)
	if err != nil {
		return nil, nil, err
	}
	layers := append(append([]blob(nil), image.layers...), sources)
	if p.job.Recipe.Resolve != "maven" {
		return image, layers, nil
	}
	maven, err := p.pack(p.fillMaven)
	return image, append(layers, maven), err
}

// pack makes a layer of what fill packs.
func (p *plan) pack(fill func(*layerWriter) error) (blob, error) {
	return packLayer(p.ctx, p.scratch, p.job.Recipe.Timestamp, fill)
}

// outputs is a state that holds the recipe's outputs and nothing else, each
// with its path below a folder of its number. One that the commands did not
// leave is not there either: the reader of the export says so better than a
// failing copy would. Links are not followed, so an output is a file that the
// commands wrote where the recipe says.
func (p *plan) outputs(root llb.State) llb.State {
	out := llb.Scratch()
	for i, o := range p.job.Recipe.Outputs {
		pattern := o.Path
		if isFamily(o) {
			pattern += "/*"
		}
		out = out.File(llb.Copy(root, p.workDir(), "/"+strconv.Itoa(i), &llb.CopyInfo{
			CopyDirContentsOnly: true, CreateDestPath: true, IncludePatterns: []string{pattern},
		}), llb.WithCustomName("output "+o.File))
	}
	return out
}

func isFamily(o record.Output) bool {
	_, family := artifact.Name{Package: o.Package, File: o.File}.Family()
	return family
}

// outputMember is where an output stands in the export.
func outputMember(i int, o record.Output) string { return strconv.Itoa(i) + "/" + o.Path }

func (p *plan) workDir() string {
	if p.job.Recipe.Environment.WorkDir == "" {
		return defaultWorkDir
	}
	return p.job.Recipe.Environment.WorkDir
}

// environment sets the variables and the working folder of every command.
func (p *plan) environment(state llb.State, image []string) llb.State {
	for _, v := range p.variables(image) {
		name, value, _ := strings.Cut(v, "=")
		state = state.AddEnv(name, value)
	}
	return state.Dir(p.workDir())
}

// variables are those of every command: the image's, then ours, then the
// recipe's.
func (p *plan) variables(image []string) []string {
	r := p.job.Recipe
	variables := append([]string{"PATH=" + defaultPath}, image...)
	variables = append(variables, "HOME=/root", "SOURCE_DATE_EPOCH="+strconv.FormatInt(r.Timestamp, 10))
	if r.Environment.Locale != "" {
		variables = append(variables, "LANG="+r.Environment.Locale, "LC_ALL="+r.Environment.Locale)
	}
	if r.Environment.TimeZone != "" {
		variables = append(variables, "TZ="+r.Environment.TimeZone)
	}
	if r.Resolve == mavenKind {
		variables = append(variables, "MVNW_REPOURL="+p.wrapperRepository())
	}
	if r.Environment.Newline == record.NewlineCRLF {
		// Java reads the property once, before any program can set it; quoted, the
		// two characters survive the splitting into words.
		variables = append(variables, "JAVA_TOOL_OPTIONS=-Dline.separator='\r\n'")
	}
	return append(variables, r.Environment.Variables...)
}

// wrapperRepository is where a project's own Maven wrapper (mvnw) gets Maven from, instead
// of the address that the project names: from the mirror, and then from what was locked.
func (p *plan) wrapperRepository() string {
	if p.relay != nil {
		return "http://" + MirrorAddress
	}
	return "file:///" + mavenRepository
}

// commands runs the recipe's commands, one step each.
func (p *plan) commands(state llb.State) (llb.State, error) {
	for _, s := range p.steps() {
		options, err := p.step(s.Name, s.Script)
		if err != nil {
			return llb.State{}, err
		}
		state = state.Run(options...).Root()
	}
	return state, nil
}

func (p *plan) steps() []Step {
	var steps []Step
	for i, command := range p.job.Recipe.Commands {
		name := fmt.Sprintf("command %d of %d: %s", i+1, len(p.job.Recipe.Commands), command)
		steps = append(steps, Step{Name: name, Script: p.umask() + command})
	}
	return steps
}

func (p *plan) umask() string {
	if p.job.Recipe.Environment.Umask == "" {
		return fmt.Sprintf("umask %03o\n", defaultUmask)
	}
	return "umask " + p.job.Recipe.Environment.Umask + "\n"
}

// step is one run of /bin/sh with no network.
func (p *plan) step(name, script string) ([]llb.RunOption, error) {
	arguments := []string{"/bin/sh", "-eu", "-c", script}
	options := []llb.RunOption{
		llb.Network(pb.NetMode_NONE), llb.Security(pb.SecurityMode_SANDBOX),
		llb.WithCustomName(name), llb.WithLinuxResources(p.limits),
	}
	if p.cgroup != "" {
		options = append(options, llb.WithCgroupParent(p.cgroup))
	}
	if p.disk > 0 {
		options = append(options, llb.AddUlimit(llb.UlimitFsize, p.disk, p.disk))
	}
	if p.processes > 0 {
		options = append(options, llb.AddUlimit(llb.UlimitNproc, p.processes, p.processes))
	}
	if p.relay != nil {
		arguments = append(append([]string{relayProgram}, p.relay.program[1:]...), append([]string{mirrorSocket, MirrorAddress, "--"}, arguments...)...)
		program, err := p.packRelay()
		if err != nil {
			return nil, err
		}
		options = append(options,
			llb.AddMount(relayMount, program, llb.Readonly),
			llb.AddSSHSocket(llb.SSHID(mirrorID), llb.SSHSocketTarget(mirrorSocket)),
			// A step that BuildKit remembers would ask the mirror for nothing.
			llb.IgnoreCache)
	}
	return append(options, llb.Args(arguments)), nil
}

// unpackSources packs the recipe's sources, each unpacked where it belongs.
func (p *plan) unpackSources(l *layerWriter) error {
	if work := strings.TrimPrefix(path.Clean(p.workDir()), "/"); work != "" {
		if err := l.folder(work, 0o777&^p.modes(), 0, 0); err != nil {
			return err
		}
	}
	for _, s := range p.job.Recipe.Sources {
		name, err := sourceName(s)
		if err != nil {
			return err
		}
		into := s.Into
		if into == "" {
			into = p.workDir()
		}
		if err := unpackOne(l, s, name, strings.TrimPrefix(path.Clean(into), "/"), p.modes(), checked(p.job.Open)); err != nil {
			return err
		}
	}
	return nil
}

// modes is the umask that unpacked sources have: archivers put a file's mode into what
// they make, and a person who unpacked the source has the umask of the build.
func (p *plan) modes() int64 {
	umask, err := strconv.ParseInt(p.job.Recipe.Environment.Umask, 8, 64)
	if err != nil {
		return defaultUmask
	}
	return umask
}

func unpackOne(l *layerWriter, s record.Source, name, into string, umask int64, open func(artifact.SHA256) (*os.File, error)) error {
	file, err := open(s.SHA256)
	if err != nil {
		return fmt.Errorf("open source %s: %w", name, err)
	}
	defer file.Close()
	return l.unpack(file, name, unpacking{into: into, strip: s.Strip, umask: umask, crlf: s.Newline == record.NewlineCRLF})
}

func sourceName(s record.Source) (string, error) {
	if s.Git != "" {
		return s.Commit + ".tar", nil
	}
	if s.Maven == "" {
		return path.Base(s.URL), nil
	}
	m, err := artifact.ParseMaven(s.Maven)
	if err != nil {
		return "", fmt.Errorf("%w: source: %w", errInput, err)
	}
	return m.File(), nil
}

// mavenKind is the kind of lock entries that are a path of a Maven repository.
const mavenKind = "maven"

// fillMaven packs the locked Maven files as Maven's local repository, and the
// settings that make Maven ask nobody else.
func (p *plan) fillMaven(l *layerWriter) error {
	if err := l.folder(mavenRepository, 0o755, 0, 0); err != nil {
		return err
	}
	// The same settings with and without a mirror: Maven's own offline mode leaves out
	// every goal that declares to need the network, and so makes another release. What
	// is locked it finds in its local repository, what is not nobody serves here.
	if err := l.text(mavenSettings, settings(`<mirrors><mirror><id>pyrsia</id><mirrorOf>*</mirrorOf><url>http://`+MirrorAddress+`/</url></mirror></mirrors>`)); err != nil || p.relay != nil {
		return err
	}
	for _, e := range p.job.Lock.Entries {
		if e.Kind != mavenKind {
			continue
		}
		if err := l.locked(mavenRepository+"/"+localName(e.Path), e.File, p.job.Open); err != nil {
			return err
		}
	}
	return nil
}

// localName is where Maven's local repository keeps a remote repository's file.
// Only metadata files have another name there; as "-local" Maven reads them
// whatever repositories a POM declares.
func localName(name string) string {
	if path.Base(name) == "maven-metadata.xml" {
		return path.Join(path.Dir(name), "maven-metadata-local.xml")
	}
	return name
}

func settings(inner string) string {
	return xml.Header + `<settings><localRepository>/` + mavenRepository + `</localRepository><interactiveMode>false</interactiveMode>` + inner + "</settings>\n"
}

// packRelay packs the relay's program, once for all of a job's steps. It is read
// anew for each job, so that an update of the program needs no restart.
func (p *plan) packRelay() (llb.State, error) {
	if p.relay.packed != nil {
		return *p.relay.packed, nil
	}
	b, err := packProgram(p.ctx, p.scratch, p.relay.program[0])
	if err != nil {
		return llb.State{}, fmt.Errorf("relay program: %w", err)
	}
	state, err := p.source("relay", b)
	p.relay.packed = &state
	return state, err
}

func packProgram(ctx context.Context, folder, program string) (blob, error) {
	file, err := os.Open(program)
	if err != nil {
		return blob{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return blob{}, err
	}
	return packLayer(ctx, folder, 0, func(l *layerWriter) error {
		return l.regular(path.Base(relayProgram), 0o755, 0, 0, info.Size(), file)
	})
}

// image is the state of a root made of Debian packages, sources unpacked and
// commands done, as one layer.
func (p *plan) image() (llb.State, error) {
	if len(p.job.Recipe.Debian) != 1 {
		return llb.State{}, fmt.Errorf("%w: the recipe of %s has neither a builder image nor Debian packages", errInput, p.job.Recipe.Package)
	}
	debian := p.job.Recipe.Debian[0]
	set, err := readDebian(debian, p.job.Lock, checked(p.job.Open))
	if err != nil {
		return llb.State{}, err
	}
	bootstrap, err := set.closure(debian.BaseOf)
	if err != nil {
		return llb.State{}, err
	}
	p.log.say("unpacking %d of %d Debian packages to bootstrap with", len(bootstrap), len(set.packages))
	first, err := p.pack(func(l *layerWriter) error { return l.stage0(bootstrap, checked(p.job.Open)) })
	if err != nil {
		return llb.State{}, err
	}
	tools, err := p.source("bootstrap", first)
	if err != nil {
		return llb.State{}, err
	}
	packed, err := p.pack(func(l *layerWriter) error {
		return set.repository(l, p.job.Recipe.Timestamp, p.job.Open)
	})
	if err != nil {
		return llb.State{}, err
	}
	archive, err := p.source("archive", packed)
	if err != nil {
		return llb.State{}, err
	}
	root, err := p.bootstrap(debian, tools, archive)
	if err != nil {
		return llb.State{}, err
	}
	sources, err := p.pack(p.unpackSources)
	if err != nil {
		return llb.State{}, err
	}
	unpacked, err := p.source("sources", sources)
	if err != nil {
		return llb.State{}, err
	}
	epoch := time.Unix(p.job.Recipe.Timestamp, 0).UTC()
	root = root.File(llb.Copy(unpacked, "/", "/", &llb.CopyInfo{CopyDirContentsOnly: true}), llb.WithCustomName("sources"))
	root, err = p.commands(root)
	if err != nil {
		return llb.State{}, err
	}
	// One time for all files makes the layer the same in every build, whatever
	// touched them, without a second pass of compression.
	return llb.Scratch().File(llb.Copy(root, "/", "/", &llb.CopyInfo{
		CopyDirContentsOnly: true, ExcludePatterns: imageLeavesOut, CreatedTime: &epoch,
	}), llb.WithCustomName("image")), nil
}

// imageLeavesOut is what differs from build to build or machine to machine, or
// is of no use in an image.
var imageLeavesOut = []string{
	"dev/**", "proc/**", "sys/**", "run/**", "tmp/**", "out", "mnt/**",
	"etc/resolv.conf", "etc/hostname", "etc/machine-id",
	"etc/apt/sources.list", "etc/apt/sources.list.d/**",
	"var/log/**", "var/tmp/**", "var/cache/apt/**", "var/cache/ldconfig/**", "var/cache/debconf/**",
	"var/lib/apt/lists/**", "var/lib/dpkg/*-old", "var/cache/man/**",
	"usr/lib/jvm/**/classes.jsa", "usr/lib/jvm/**/classes_nocoops.jsa",
}

// bootstrap makes a configured Debian root with the recipe's packages.
//
// It takes two runs: mmdebstrap may not mount /proc in its new root here, which
// some packages need to be configured (a JDK does), so that it only makes the
// base, and the base's own apt installs the rest in a run of its own.
func (p *plan) bootstrap(debian record.Debian, tools, archive llb.State) (llb.State, error) {
	// aptOptions keep everything that apt writes beside packages in /tmp, which
	// is memory here and never part of the image.
	const aptOptions = "-o Dir::Etc::SourceList=" + repositoryMount + "/sources.list -o Dir::Etc::SourceParts=/dev/null" +
		" -o Dir::State::Lists=/tmp/lists -o Dir::Cache=/tmp/cache -o APT::Sandbox::User=root -o Acquire::Languages=none"
	variant := debian.Variant
	if variant == "" {
		variant = "apt"
	}
	environment := func(s llb.State) llb.State {
		return p.environment(s, []string{"DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true"}).Dir("/")
	}
	first, err := p.step("mmdebstrap "+debian.Suite, "umask 022\nmmdebstrap --mode=root --format=directory --variant="+variant+
		" --aptopt='APT::Sandbox::User \"root\"' --skip=check/empty --skip=check/canmount --skip=output/dev --skip=cleanup/reproducible "+debian.Suite+" "+outMount+
		" 'deb [trusted=yes] copy:"+repositoryMount+" "+debian.Suite+" main'")
	if err != nil {
		return llb.State{}, err
	}
	first = append(first, llb.AddMount(repositoryMount, archive, llb.Readonly), llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs()))
	base := environment(tools).Run(first...).AddMount(outMount, llb.Scratch())

	install, err := p.step("apt-get install "+strings.Join(debian.Packages, " "), "umask 022\nmkdir -p /tmp/lists/partial /tmp/cache/archives/partial\n"+
		"apt-get -q "+aptOptions+" update\n"+
		"apt-get -q -y --no-install-recommends "+aptOptions+" install "+strings.Join(debian.Packages, " ")+"\n")
	if err != nil {
		return llb.State{}, err
	}
	install = append(install, llb.AddMount(repositoryMount, archive, llb.Readonly), llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs()))
	return p.environment(environment(base).Run(install...).Root(), nil), nil
}

// imageConfig is the configuration of the published image.
func imageConfig(r *record.Recipe) ([]byte, error) {
	image := r.Images[0]
	created := time.Unix(r.Timestamp, 0).UTC()
	config := ocispecs.Image{Created: &created, Platform: platform}
	config.Config.Env = append([]string{"PATH=" + defaultPath}, image.Variables...)
	config.Config.Cmd = image.Command
	config.Config.WorkingDir = image.WorkDir
	config.RootFS.Type = "layers"
	var data bytes.Buffer
	err := json.NewEncoder(&data).Encode(config)
	return bytes.TrimSpace(data.Bytes()), err
}

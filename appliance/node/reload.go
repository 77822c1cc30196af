package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/appliance/history"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/durable"
)

// reload is the service that knows which configuration the node runs with, and takes
// others in its place.
type reload struct {
	node    *Node
	history *history.Folder
	turn    sync.Mutex // one reload at a time

	news chan struct{} // capacity 1: Summary has changed

	mu    sync.Mutex // guards state
	state control.Configuration
}

func (r *reload) tell() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (n *Node) makeReload() error {
	state := control.Configuration{Taken: n.started}
	if i := n.options.instead; i != nil {
		n.file = i.File
		state.Rejected, state.Instead = i.Reason, n.conf().File
	}
	state.File = n.file
	n.reload = &reload{node: n, news: make(chan struct{}, 1), history: History(n.conf().Storage.Data, n.file)}
	state.Number = n.reload.history.Next(n.conf().Source())
	n.reload.state = state
	return nil
}

// History are the configurations that a node with a data folder ran with, of the
// pyrsia.hcl with a path.
func History(data, file string) *history.Folder {
	return history.Of(data+"/config", file, durable.OS(true))
}

// Serve implements supervisor.Service. It is the last to start: a configuration with
// which everything came up is a good one.
func (r *reload) Serve(ctx context.Context) error {
	if err := r.keep(r.node.conf()); err != nil {
		r.node.log.Warn("the node runs, but could not note the configuration as a good one", "error", err)
	}
	<-ctx.Done()
	return nil
}

// keep notes a configuration as the last good one.
func (r *reload) keep(cfg *config.Config) error {
	entry, err := r.history.Add(cfg.Source(), time.Now())
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Number = entry.Number
	return nil
}

func (r *reload) configuration() control.Configuration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Reload implements control.Configurator.
func (n *Node) Reload(ctx context.Context) (control.Reloaded, error) {
	// It goes to its end whether or not who asked for it still waits.
	ctx = context.WithoutCancel(ctx)
	r := n.reload
	r.turn.Lock()
	defer r.turn.Unlock()
	defer r.tell()
	began := time.Now()
	result, err := r.reload(ctx)
	if err != nil {
		r.mu.Lock()
		r.state.Rejected = err.Error()
		r.mu.Unlock()
		n.log.Error("the configuration is rejected; the node goes on with the one before", "error", err)
		return result, fmt.Errorf("%w; the node goes on with the configuration before", err)
	}
	result.Took = time.Since(began)
	n.log.Info("the configuration is taken", "number", result.Number, "changes", len(result.Changes), "took", result.Took)
	return result, nil
}

func (r *reload) reload(ctx context.Context) (result control.Reloaded, err error) {
	n := r.node
	to, diagnostics := config.Load(n.file)
	if err := diagnostics.Err(); err != nil {
		return result, err
	}
	if result.Plan, err = n.plan(to); err != nil {
		return result, err
	}
	// Before what a changed place lacks, which would not help.
	if err := refused(result.Plan); err != nil {
		return result, err
	}
	if err := r.check(to); err != nil {
		return result, err
	}
	if err := n.apply(ctx, to); err != nil {
		return result, err
	}
	r.mu.Lock()
	r.state.Rejected, r.state.Instead, r.state.Taken = "", "", time.Now()
	r.mu.Unlock()
	if err := r.keep(to); err != nil {
		result.Warning = fmt.Sprintf("it is in force, but not noted as the last good one: %v", err)
	}
	result.Number = r.configuration().Number
	return result, nil
}

// check looks at what a configuration names.
func (r *reload) check(to *config.Config) error {
	_, _, diagnostics := to.Genesis()
	if err := diagnostics.Err(); err != nil {
		return err
	}
	if err := permitted(to); err != nil {
		return err
	}
	return to.CheckIdentity(r.node.identity).Err()
}

// Plan implements control.Configurator.
func (n *Node) Plan(_ context.Context, file string, source []byte) (control.Plan, error) {
	own := file == ""
	if own {
		var err error
		if source, err = config.ReadFile(n.file); err != nil {
			return control.Plan{}, fmt.Errorf("%s: cannot read the configuration: %w", n.file, err)
		}
		file = n.file
	}
	to, diagnostics := config.Parse(source, file)
	if err := diagnostics.Err(); err != nil {
		return control.Plan{}, err
	}
	plan, err := n.plan(to)
	if err != nil || refused(plan) != nil {
		return plan, err
	}
	if own {
		err = n.reload.check(to)
	} else {
		err = to.CheckIdentity(n.identity).Err()
	}
	if err != nil {
		return control.Plan{}, err
	}
	n.reload.turn.Lock()
	defer n.reload.turn.Unlock()
	return plan, n.rehearse(to)
}

// rehearse opens the addresses of a configuration that are new, and closes them again:
// whether they can be had, nobody else knows.
func (n *Node) rehearse(to *config.Config) error {
	for _, listen := range []part{n.reloadRegistry, n.reloadMetrics, n.reloadNetwork} {
		_, undo, err := listen(n.conf(), to)
		if err != nil {
			return err
		}
		undo()
	}
	return nil
}

// byHand is the role that the node has by hand, "" where it has the configuration's.
func (n *Node) byHand() string {
	if own := n.conf().Role; own == config.RoleUnset || string(own) == n.roleName() {
		return ""
	}
	return n.roleName()
}

// plan is what a reload of a configuration would do.
func (n *Node) plan(to *config.Config) (control.Plan, error) {
	plan := control.Plan{File: to.File, Number: n.reload.configuration().Number, Changes: []control.Change{}}
	if !n.keepsRole(to) {
		plan.Changes = append(plan.Changes, control.Change{Path: "role", Old: strconv.Quote(n.roleName()), New: strconv.Quote(string(to.Role)), Effect: control.EffectRole})
	}
	for _, c := range config.Changes(n.conf(), to) {
		if c.Path == "role" {
			continue // what the node is counts, and that may be by hand
		}
		change := control.Change{Path: c.Path, Old: c.Old, New: c.New, Effect: string(c.Reload), Added: c.Added, Removed: c.Removed}
		if c.Range != nil {
			change.Line = c.Range.Line
		}
		plan.Changes = append(plan.Changes, change)
	}
	return plan, nil
}

// keepsRole tells whether a configuration leaves the node's role as it is: it does not
// speak of it, or says what the node is.
func (n *Node) keepsRole(to *config.Config) bool {
	return to.Role == config.RoleUnset || string(to.Role) == n.roleName()
}

// refused names what cannot change while the node runs.
func refused(plan control.Plan) error {
	var paths []string
	for _, c := range plan.Changes {
		if c.Effect == string(config.Fixed) {
			place := c.Path
			if c.Line > 0 {
				place = fmt.Sprintf("%s (line %d)", c.Path, c.Line)
			}
			paths = append(paths, place)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s cannot change while the node runs: restart it, or take the change back", plan.File, strings.Join(paths, ", "))
}

// part is what one module makes of a new configuration. prepare does all that can
// fail; then commit is called, or undo if another part failed.
type part func(from, to *config.Config) (commit, undo func(), err error)

func nothing() {}

// apply puts a configuration in force, in all its parts or in none.
func (n *Node) apply(ctx context.Context, to *config.Config) error {
	commits, become, err := n.prepare(to)
	if err != nil {
		return err
	}
	n.config.Store(to)
	for _, commit := range commits {
		commit()
	}
	return become(ctx)
}

// prepare has every part do all that can fail, the role last. An error leaves all as it
// was.
func (n *Node) prepare(to *config.Config) (commits []func(), become func(context.Context) error, err error) {
	var undos []func()
	defer func() {
		if err == nil {
			return
		}
		for _, undo := range undos {
			undo()
		}
	}()
	for _, prepare := range []part{n.reloadCheckpoint, n.reloadRegistry, n.reloadMetrics, n.reloadNetwork, n.reloadPeers, n.reloadMirror, n.reloadBuilds, n.reloadStore, n.reloadLog} {
		commit, undo, err := prepare(n.conf(), to)
		if err != nil {
			return nil, nil, err
		}
		commits, undos = append(commits, commit), append(undos, undo)
	}
	become, err = n.prepareRole(to)
	return commits, become, err
}

// reloadCheckpoint holds the log to another checkpoint. It counts while the rest is
// prepared, which is harmless: it only refuses.
func (n *Node) reloadCheckpoint(from, to *config.Config) (commit, undo func(), err error) {
	if err := n.chain.Pin(to.Network.Checkpoint); err != nil {
		return nil, nil, fmt.Errorf("%s: network.checkpoint: %w", to.File, err)
	}
	return nothing, func() { _ = n.chain.Pin(from.Network.Checkpoint) }, nil
}

func (n *Node) reloadRegistry(_, to *config.Config) (commit, undo func(), err error) {
	if commit, undo, err = n.front.listen(to.Registry.Listen); err != nil {
		err = fmt.Errorf("%s: registry.listen: %w; %s", to.File, err, otherAddress(err))
	}
	return commit, undo, err
}

func (n *Node) reloadMetrics(_, to *config.Config) (commit, undo func(), err error) {
	if commit, undo, err = n.meter.listen(to.Metrics.Listen); err != nil {
		err = fmt.Errorf("%s: metrics.listen: %w; %s", to.File, err, otherAddress(err))
	}
	return commit, undo, err
}

func (n *Node) reloadNetwork(_, to *config.Config) (commit, undo func(), err error) {
	if commit, undo, err = n.host.Listen(to.Network.Listen); err != nil {
		err = fmt.Errorf("%s: network.listen: %w; %s", to.File, err, otherAddress(err))
	}
	return commit, undo, err
}

// otherAddress is what to do about an address that cannot be had.
func otherAddress(err error) string {
	if errors.Is(err, errOverlap) {
		return "or choose another address"
	}
	if errors.Is(err, fs.ErrPermission) {
		return "choose a port from 1024 on, or let everybody have lower ones: sysctl net.ipv4.ip_unprivileged_port_start=80"
	}
	return "stop the other program, or choose another address"
}

func (n *Node) reloadPeers(from, to *config.Config) (commit, undo func(), err error) {
	// What SetPeers refuses, the configuration's own check has refused before; so that
	// this is the check again, and no half-done change.
	if err := n.host.SetPeers(n.peers(to)); err != nil {
		return nil, nil, fmt.Errorf("%s: trusted_build_peer: %w", to.File, err)
	}
	commit = func() {
		n.host.SetShare(to.Distribution.Share)
		n.host.SetUploadRate(to.Distribution.Upload)
		n.host.SetDownloadRate(to.Distribution.Download)
	}
	return commit, func() { _ = n.host.SetPeers(n.peers(from)) }, nil
}

func (n *Node) reloadMirror(_, to *config.Config) (commit, undo func(), err error) {
	rules, err := mirrorRules(to)
	if err == nil {
		err = rules.Check()
	}
	if err != nil {
		return nil, nil, err
	}
	return func() { _ = n.mirror.SetRules(rules) }, nothing, nil
}

// reloadBuilds changes the limits of a build node. One that becomes a build node gets
// them with its role.
func (n *Node) reloadBuilds(from, to *config.Config) (commit, undo func(), err error) {
	b := n.builder.Load()
	if b == nil {
		return nothing, nothing, nil
	}
	if err := engineLimits(to).Check(); err != nil {
		return nil, nil, fmt.Errorf("%s: build: %w", to.File, err)
	}
	if err := errors.Join(b.inputs.SetUpstreams(inputUpstreams(to)), b.tries.SetUpstreams(inputUpstreams(to))); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", to.File, err)
	}
	commit = func() {
		_ = b.engine.SetLimits(engineLimits(to))
		b.recipes.set(to.Build.Recipes)
		b.member.SetLimits(publishLimits(to))
	}
	return commit, func() {
		_ = b.inputs.SetUpstreams(inputUpstreams(from))
		_ = b.tries.SetUpstreams(inputUpstreams(from))
	}, nil
}

// reloadStore evicts down to a smaller quota. That the disk does not let it is no
// reason to go on with the larger one.
func (n *Node) reloadStore(from, to *config.Config) (commit, undo func(), err error) {
	if from.Distribution.Quota == to.Distribution.Quota {
		return nothing, nothing, nil
	}
	return func() {
		if err := n.store.SetQuota(to.Distribution.Quota); err != nil {
			n.log.Error("cannot make room for the new quota", "quota", to.Distribution.Quota, "error", err)
		}
	}, nothing, nil
}

func (n *Node) reloadLog(_, to *config.Config) (commit, undo func(), err error) {
	return func() {
		if n.options.journal != nil {
			n.options.journal.Set(to.Log)
		}
	}, nothing, nil
}

// prepareRole makes the modules of another role, if a configuration asks for one.
func (n *Node) prepareRole(to *config.Config) (become func(context.Context) error, err error) {
	if n.keepsRole(to) {
		return func(context.Context) error { return nil }, nil
	}
	var next *builder
	if to.Role == config.RoleBuild {
		if next, err = n.newBuilder(to); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) error {
		err := n.become(ctx, next)
		if next != nil && errors.Is(err, errStopping) {
			err = errors.Join(err, next.close())
		}
		return err
	}, nil
}

// SetRole implements control.Configurator.
func (n *Node) SetRole(ctx context.Context, name string) error {
	ctx = context.WithoutCancel(ctx) // as a reload
	r := n.reload
	r.turn.Lock()
	defer r.turn.Unlock()
	defer r.tell()
	if name == n.roleName() {
		return nil
	}
	var next *builder
	switch config.Role(name) {
	case config.RoleBuild:
		var err error
		if next, err = n.newBuilder(n.conf()); err != nil {
			return err
		}
	case config.RoleRegular:
	default:
		return fmt.Errorf("%w: %q is no role", control.ErrInvalid, name)
	}
	if err := n.become(ctx, next); err != nil {
		if next != nil && errors.Is(err, errStopping) {
			err = errors.Join(err, next.close())
		}
		return err
	}
	n.log.Info("the role is changed by hand, until the next reload of a configuration that names one", "role", name)
	return nil
}

// Configuration implements control.Configurator.
func (n *Node) Configuration(context.Context) ([]control.Setting, error) {
	settings := []control.Setting{}
	for _, v := range n.conf().Effective() {
		s := control.Setting{Path: v.Path, Value: v.Value}
		if v.Range != nil {
			s.File, s.Line = v.Range.File, v.Range.Line
		}
		settings = append(settings, s)
	}
	return settings, nil
}

// History implements control.Configurator.
func (n *Node) History(context.Context) ([]control.Taken, error) {
	taken := []control.Taken{}
	all, err := n.reload.history.List()
	for i := len(all) - 1; i >= 0; i-- {
		taken = append(taken, control.Taken{Number: all[i].Number, Time: all[i].Time, Now: all[i].Number == n.reload.configuration().Number})
	}
	return taken, err
}

// Past implements control.Configurator.
func (n *Node) Past(_ context.Context, number int) ([]byte, error) {
	_, source, err := n.reload.history.Read(number)
	if errors.Is(err, history.ErrNone) {
		err = control.WithHint(fmt.Errorf("%w: configuration %d is not kept", control.ErrNotFound, number), "`pyrsia config history` lists those that are")
	}
	return source, err
}

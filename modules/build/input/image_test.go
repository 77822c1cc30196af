package input

import (
	"fmt"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

const builderName = "pkg:docker/acme/jdk@21"

// imageWorld is a world with a published builder image, which the asker has and
// the voter has not.
func imageWorld(t testing.TB) (*world, *record.Recipe) {
	w, recipe, _ := mavenWorld(t)
	recipe.Builder, recipe.Resolve = builderName, ""
	publishImage(t, w, "the layer")
	return w, recipe
}

func publishImage(t testing.TB, w *world, layers ...string) artifact.Descriptor {
	parts := []artifact.Descriptor{w.asker.store.put(t, "the configuration")}
	manifest := fmt.Sprintf(`{"config":{"digest":%q},"layers":[`, parts[0].SHA256.OCI())
	for i, layer := range layers {
		d := w.asker.store.put(t, layer)
		parts = append(parts, d)
		if i > 0 {
			manifest += ","
		}
		manifest += fmt.Sprintf(`{"digest":%q}`, d.SHA256.OCI())
	}
	d := w.asker.store.put(t, manifest+"]}")
	w.chain.live[builderName] = d
	for _, part := range parts {
		w.chain.vouched[partName(d, part)] = part
	}
	return d
}

func partName(manifest, part artifact.Descriptor) artifact.Name {
	return artifact.Name{Package: artifact.DockerPURL("acme/jdk", manifest.SHA256.OCI()), File: part.SHA256.OCI()}
}

func TestBuilderImage(t *testing.T) {
	w, recipe := imageWorld(t)
	lock := resolve(t, w.asker, recipe, nil)
	if len(lock.Builder) != 1 || lock.Builder[0] != w.chain.live[builderName] {
		t.Fatalf("builder %v", lock.Builder)
	}
	if parts := entriesOf(lock, kindImage); len(parts) != 2 {
		t.Fatalf("image entries %v, want configuration and layer", parts)
	}
	var last Progress
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if last.Files != 4 || last.FilesDone != 4 || last.Bytes != last.BytesDone {
		t.Errorf("progress %+v", last)
	}
	for _, d := range append(lock.Builder, describe("the layer"), describe("the configuration")) {
		if _, found := w.voter.store.Stat(d.SHA256); !found {
			t.Errorf("%s is not in the store", d.SHA256)
		}
	}
}

// A layer may stand twice in a manifest.
func TestBuilderImageWithEqualLayers(t *testing.T) {
	w, recipe := imageWorld(t)
	publishImage(t, w, "the layer", "the layer")
	lock := resolve(t, w.asker, recipe, nil)
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
}

func TestBuilderImagePoisoned(t *testing.T) {
	for name, alter := range map[string]func(*testing.T, *world, *record.Lock){
		"another image is live": func(t *testing.T, w *world, _ *record.Lock) { publishImage(t, w, "newer") },
		"an image of the asker's": func(t *testing.T, w *world, l *record.Lock) {
			l.Builder[0] = w.asker.store.put(t, "{}")
		},
		"a layer changed": func(_ *testing.T, _ *world, l *record.Lock) {
			at(l, describe("the layer").SHA256.OCI()).File.BLAKE3[0]++
		},
		"a layer missing": func(_ *testing.T, _ *world, l *record.Lock) { drop(l, describe("the layer").SHA256.OCI()) },
		"a layer not vouched for": func(_ *testing.T, w *world, l *record.Lock) {
			delete(w.chain.vouched, partName(l.Builder[0], describe("the layer")))
		},
		"a layer too many": func(_ *testing.T, _ *world, l *record.Lock) {
			l.Entries = append(l.Entries, record.LockEntry{Kind: "image", Path: "sha256:zz", Proof: record.ProofChain, File: describe("x")})
			l.Sort()
		},
		"a manifest that is none": func(t *testing.T, w *world, l *record.Lock) {
			l.Builder[0] = w.asker.store.put(t, "no manifest")
			w.chain.live[builderName] = l.Builder[0]
		},
		"a huge manifest": func(_ *testing.T, w *world, l *record.Lock) {
			l.Builder[0].Size = maxManifest + 1
			w.chain.live[builderName] = l.Builder[0]
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, recipe := imageWorld(t)
			lock := resolve(t, w.asker, recipe, nil)
			alter(t, w, lock)
			wantPoisoned(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), builderName)
		})
	}
}

func TestBuilderImageUnavailable(t *testing.T) {
	w, recipe := imageWorld(t)
	lock := resolve(t, w.asker, recipe, nil)
	w.voter.peer.from = nil
	wantUnavailable(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), builderName)
	delete(w.chain.live, builderName)
	wantUnavailable(t, w.voter.keeper.Hold(t.Context(), recipe, lock, nil), builderName)
	_, err := w.asker.keeper.Resolve(t.Context(), recipe, nil, jobFor(t), nil)
	wantUnavailable(t, err, builderName)
}

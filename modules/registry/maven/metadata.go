package maven

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/mirror"
)

// maxMetadata is the longest listing taken from an upstream, in bytes.
const maxMetadata = 4 << 20

// metadata is a maven-metadata.xml of an artifact or a group, as far as this
// node has something to add to it.
type metadata struct {
	XMLName    xml.Name    `xml:"metadata"`
	GroupID    string      `xml:"groupId,omitempty"`
	ArtifactID string      `xml:"artifactId,omitempty"`
	Versioning *versioning `xml:"versioning"`
	Plugins    *plugins    `xml:"plugins"`
}

type versioning struct {
	Latest      string   `xml:"latest,omitempty"`
	Release     string   `xml:"release,omitempty"`
	Versions    []string `xml:"versions>version"`
	LastUpdated string   `xml:"lastUpdated,omitempty"`
}

type plugins struct {
	Plugin []plugin `xml:"plugin"`
}

type plugin struct {
	Name       string `xml:"name,omitempty"`
	Prefix     string `xml:"prefix"`
	ArtifactID string `xml:"artifactId"`
}

// view is a listing: the log's versions, the upstream's under the policy
// "pass", or both merged. Nobody vouches for it.
func (h *Handler) view(ctx context.Context, t target) ([]byte, mirror.Vouch, error) {
	var versions []string
	if t.artifact != "" {
		var err error
		if versions, err = h.mirror.Versions(t.group, t.artifact); err != nil {
			return nil, mirror.Computed, err
		}
	}
	theirs, err := h.upstreamView(ctx, t)
	if len(versions) == 0 || errors.Is(err, mirror.ErrDenied) {
		return theirs, mirror.Vouch{Unverified: "upstream"}, err
	}
	listing := &metadata{}
	if err == nil {
		// A listing that cannot be read is as good as none.
		listing, err = parseMetadata(theirs)
	}
	if err != nil {
		listing = &metadata{}
	}
	listing.GroupID, listing.ArtifactID = t.group, t.artifact
	listing.add(versions)
	body, err := listing.format()
	return body, mirror.Computed, err
}

func (h *Handler) upstreamView(ctx context.Context, t target) ([]byte, error) {
	lifetime := mirror.Short
	if t.snapshot {
		lifetime = mirror.Ephemeral
	}
	content, err := h.mirror.Open(ctx, mirror.Request{
		Name:     artifact.Name{Package: t.pkg(), File: metadataFile},
		View:     true,
		Path:     t.path,
		Lifetime: lifetime,
		Limit:    maxMetadata,
		Whole:    true,
	})
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(io.LimitReader(content.Body(), maxMetadata))
}

func parseMetadata(data []byte) (*metadata, error) {
	m := new(metadata)
	if err := xml.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s: %w", metadataFile, err)
	}
	if m.Versioning != nil && !m.Versioning.modest() {
		return nil, fmt.Errorf("%s: more or longer versions than anybody has", metadataFile)
	}
	return m, nil
}

// The bounds of a listing that this node is willing to sort.
const (
	maxVersions      = 20_000
	maxVersionLength = 200 // bytes
)

func (v *versioning) modest() bool {
	long := func(version string) bool { return len(version) > maxVersionLength }
	return len(v.Versions) <= maxVersions && !slices.ContainsFunc(append(v.Versions, v.Latest, v.Release), long)
}

// add lists the versions too. Which is the latest is decided anew: the
// upstream does not know all of them.
func (m *metadata) add(versions []string) {
	if m.Versioning == nil {
		m.Versioning = new(versioning)
	}
	v := m.Versioning
	for _, version := range versions {
		if !slices.Contains(v.Versions, version) {
			v.Versions = append(v.Versions, version)
		}
	}
	slices.SortStableFunc(v.Versions, compareVersions)
	for _, version := range versions {
		v.Latest = later(v.Latest, version)
		v.Release = later(v.Release, version)
	}
}

func later(a, b string) string {
	if a == "" || compareVersions(a, b) < 0 {
		return b
	}
	return a
}

func (m *metadata) format() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	e := xml.NewEncoder(&b)
	e.Indent("", "  ")
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("%s: %w", metadataFile, err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// explainsSnapshot adds what a person needs to know about a snapshot that is
// not found.
func explainsSnapshot(t target, message string) string {
	if t.snapshot && strings.Contains(message, mirror.ErrNotPublished.Error()) {
		return message + " (snapshots are never published)"
	}
	return message
}

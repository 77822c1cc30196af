package config

import (
	"fmt"
	"reflect"
	"slices"
)

// Change is one setting that two configurations differ in.
type Change struct {
	Path   string `json:"path"`
	Old    string `json:"old"` // as it would stand in the file; "" where nothing is set
	New    string `json:"new"`
	Reload Reload `json:"reload"`
	Range  *Range `json:"range"` // of the new value; nil for a default

	// Of a list that both have, what only one of them has.
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Changes are the settings that differ, in the order of the documentation: what a
// block has that only one file has, too. Values are compared, not how they are
// written; what a credential is part of is shown as its expression, and as changed
// when the value behind it did.
func Changes(from, to *Config) []Change {
	var all []Change
	for _, setting := range settings {
		before, after := from.scopes(setting), to.scopes(setting)
		for _, old := range before {
			if c := from.change(to, setting, old.label, old.scope, nil); find(after, old.label) == nil && c.Old != "" {
				all = append(all, c)
			}
		}
		for _, now := range after {
			old := find(before, now.label)
			if old != nil && equal(setting, old, now.scope) {
				continue
			}
			if c := from.change(to, setting, now.label, old, now.scope); c.Old != c.New {
				all = append(all, c) // and not what a new block leaves unset
			}
		}
	}
	return all
}

func find(all []labelled, label string) *scope {
	for _, l := range all {
		if l.label == label {
			return l.scope
		}
	}
	return nil
}

func equal(setting Setting, a, b *scope) bool {
	return reflect.DeepEqual(reflect.ValueOf(setting.at(a)).Elem().Interface(), reflect.ValueOf(setting.at(b)).Elem().Interface())
}

// change is a setting's; old or now is nil where its block is in one file only.
func (c *Config) change(to *Config, setting Setting, label string, old, now *scope) Change {
	path := setting.path(label)
	change := Change{Path: path, Reload: setting.Reload}
	if old != nil {
		change.Old = c.shown(setting, path, old)
	}
	if now != nil {
		change.New = to.shown(setting, path, now)
		if r, set := to.origins[path]; set {
			change.Range = &r
		}
	}
	if _, secret := to.secrets[path]; !secret && old != nil && now != nil {
		before, after := setting.items(old), setting.items(now)
		change.Added, change.Removed = without(after, before), without(before, after)
	}
	if old != nil && now != nil && change.Old == change.New {
		change.New = fmt.Sprintf("%s (another value)", change.New) // of the same expression
	}
	return change
}

func without(from, in []string) []string {
	return slices.DeleteFunc(slices.Clone(from), func(s string) bool { return slices.Contains(in, s) })
}

// shown is a value as it may be shown.
func (c *Config) shown(setting Setting, path string, at *scope) string {
	if from, secret := c.secrets[path]; secret {
		return from
	}
	return setting.text(at)
}

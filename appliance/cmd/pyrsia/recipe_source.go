package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build/input"
	"github.com/pyrsia/appliance/modules/buildspec/web"
	"github.com/pyrsia/appliance/modules/record"
)

// sourceFlags are those of `recipe source`.
type sourceFlags struct {
	importing
	maven, address, git, tag string
}

func recipeSourceCommand(a *app) *cobra.Command {
	f := &sourceFlags{importing: importing{app: a}}
	cmd := &cobra.Command{
		Use:   "source",
		Short: "Fetch a source once, and print its block with the digest",
		Long: `Fetch a source once, and print its block for a recipe, with the digest that pins it:
of a git repository the commit that a tag names now, and its tree as every node packs
it; of an archive the file. Look at what you fetched before you trust the digest.`,
		Example: "  pyrsia recipe source --git https://git.example/thing.git --tag v1.0\n  pyrsia recipe source --maven org.apache.maven:apache-maven:3.9.9:bin:tar.gz",
		Args:    exactly(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.git, "git", "", "`URL` of a git repository")
	flags.StringVar(&f.tag, "tag", "", "tag in it")
	flags.StringVar(&f.maven, "maven", "", "`COORDINATES` of an archive in the Maven repository, group:artifact:version:classifier:extension")
	flags.StringVar(&f.address, "url", "", "`URL` of an archive")
	flags.StringVar(&f.repository, "repository", "", "`URL` of the Maven repository; the default is the maven upstream of pyrsia.hcl")
	return cmd
}

// check tells what is wrong with the flags.
func (f *sourceFlags) check() error {
	given := 0
	for _, where := range []string{f.git, f.maven, f.address} {
		if where != "" {
			given++
		}
	}
	if given != 1 {
		return errors.New("name one source: --git URL --tag TAG, --maven COORDINATES or --url URL")
	}
	if (f.git == "") != (f.tag == "") {
		return errors.New("--git and --tag go together")
	}
	return nil
}

func (f *sourceFlags) run(ctx context.Context) error {
	if err := f.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, longestSource, fmt.Errorf("the source did not come within %v", longestSource))
	defer cancel()
	reminder := f.app.remind("fetching")
	s, err := f.fetch(ctx)
	reminder.stop()
	if err != nil {
		return fmt.Errorf("no source: %w", err)
	}
	return f.app.show(s, func(w io.Writer, _ style) {
		w.Write(recipe.WriteSource(s)) //nolint:errcheck // as the other writes of a table
	})
}

func (f *sourceFlags) fetch(ctx context.Context) (record.Source, error) {
	hash := sha256.New()
	s := record.Source{Maven: f.maven, URL: f.address, Git: f.git, Tag: f.tag}
	var err error
	switch {
	case f.git != "":
		s.Commit, err = (input.Commits{}).Pack(ctx, f.git, f.tag, hash)
	case f.maven != "":
		err = f.fromMaven(ctx, hash)
	default:
		err = fromAddress(ctx, f.address, hash)
	}
	s.SHA256 = artifact.SHA256(hash.Sum(nil))
	return s, err
}

func (f *sourceFlags) fromMaven(ctx context.Context, w io.Writer) error {
	of, err := artifact.ParseMaven(f.maven)
	if err != nil {
		return err
	}
	importer, err := f.importer()
	if err != nil {
		return err
	}
	return importer.Repository.Get(ctx, of.Path(), w)
}

// longestSource is how long a source may take to come.
const longestSource = 30 * time.Minute

// maxSource bounds an archive, bytes, as it does for the inputs of builds.
const maxSource = 2 << 30

func fromAddress(ctx context.Context, address string, w io.Writer) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q: want an http or https address", address)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept-Encoding", "identity") // the file counts as it lies there
	response, err := (&http.Client{Transport: http.DefaultTransport, CheckRedirect: web.CheckRedirect}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close() //nolint:errcheck // reading is over
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %q", u.Host, response.Status)
	}
	n, err := io.Copy(w, io.LimitReader(response.Body, maxSource+1))
	if err == nil && n > maxSource {
		err = errors.New("the archive has more than 2 GiB")
	}
	return err
}

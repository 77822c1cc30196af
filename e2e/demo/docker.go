package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pyrsia/appliance/e2e/cluster"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// dockerClient is Debian's, by its path: another docker earlier on PATH may
// speak to something else than a dockerd.
const dockerClient = "/usr/bin/docker"

// image is the builder image as docker names it.
const image = "pyrsia/jdk21-maven:3.9.11"

// docker is a dockerd of the demo's own: it shares no folder, socket, network
// or container with one that the machine may run.
type docker struct {
	folder  string
	process *cluster.Process
}

func newDocker(folder string) *docker {
	file := func(name string) string { return filepath.Join(folder, name) }
	return &docker{folder: folder, process: &cluster.Process{
		Name: "dockerd", Folder: folder, Outlive: true, Args: []string{
			"dockerd", "--config-file", file("daemon.json"),
			"--data-root", file("data"), "--exec-root", file("exec"), "--pidfile", file("docker.pid"), "--host", "unix://" + file("docker.sock"),
			// A machine's containerd, where there is one, is used under other names.
			"--containerd-namespace", "pyrsia-demo", "--containerd-plugins-namespace", "pyrsia-demo-plugins",
			// The machine's network stays as it is: no bridge, no rules, no sysctl.
			"--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
			"--registry-mirror", "http://" + entrance,
		},
	}}
}

func (k *docker) start(ctx context.Context) error {
	if !k.process.Running() {
		if err := os.MkdirAll(filepath.Join(k.folder, "client"), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(k.folder, "daemon.json"), []byte("{}\n"), 0o600); err != nil {
			return err
		}
		os.Remove(filepath.Join(k.folder, "docker.pid")) // of one that was killed; its pid may be another's now
		if err := k.process.Start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return cluster.Until(ctx, func() (bool, error) {
		if !k.process.Running() {
			return false, fmt.Errorf("dockerd ended; see %s", k.process.Log())
		}
		_, err := k.run(ctx, "version")
		return err == nil, nil
	})
}

func (k *docker) stop() error { return k.process.Stop(30 * time.Second) }

// command is the docker client, speaking to this dockerd.
func (k *docker) command(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, dockerClient, arguments...)
	command.Env = append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(k.folder, "docker.sock"), "DOCKER_CONFIG="+filepath.Join(k.folder, "client"), "DOCKER_CONTEXT=")
	return command
}

func (k *docker) run(ctx context.Context, arguments ...string) (string, error) {
	out, err := k.command(ctx, arguments...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("docker %s: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// dockerTimeout is how long a pull of the image may take.
const dockerTimeout = 5 * time.Minute

// pull has dockerd pull the image by its name alone, and run it.
func (d *demo) pull(ctx context.Context) error {
	manifest, err := d.image.file(record.ManifestFile)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	if err := d.docker.start(ctx); err != nil {
		return err
	}
	// What an earlier run pulled goes, so that this one is a pull.
	d.docker.run(ctx, "image", "rm", "--force", image)
	if err := d.runLogged(d.docker.command(ctx, "pull", image), filepath.Join(d.docker.folder, "pull.log")); err != nil {
		return err
	}
	digests, err := d.docker.run(ctx, "image", "inspect", "--format", "{{json .RepoDigests}}", image)
	if err != nil {
		return err
	}
	if want := manifest.File.SHA256.OCI(); !strings.Contains(digests, want) {
		return fmt.Errorf("docker pulled %s, published is %s", strings.TrimSpace(digests), want)
	}
	d.out.say("pulled %s, the published digest", manifest.File.SHA256.OCI())
	said, err := d.docker.run(ctx, "run", "--rm", "--network", "none", image, "java", "-version")
	if err != nil {
		return err
	}
	d.facts.java, _, _ = strings.Cut(strings.TrimSpace(said), "\n")
	if !strings.Contains(said, `version "21.`) {
		return fmt.Errorf("`docker run %s java -version` printed %q", image, said)
	}
	d.out.say("docker run --rm --network none %s java -version: %s", image, d.facts.java)
	return nil
}

// copyImage has skopeo copy the image into a folder.
func (d *demo) copyImage(ctx context.Context) error {
	manifest, err := d.image.file(record.ManifestFile)
	if err != nil {
		return err
	}
	folder := filepath.Join(d.folder, "skopeo")
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	// Who may sign what is no question here: the digest below is.
	command := exec.CommandContext(ctx, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+entrance+"/"+image, "oci:"+folder+":3.9.11")
	if err := d.runLogged(command, filepath.Join(d.folder, "skopeo.log")); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(folder, "index.json"))
	if err != nil {
		return err
	}
	var index struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(folder, "index.json"), err)
	}
	if want := manifest.File.SHA256.OCI(); len(index.Manifests) != 1 || index.Manifests[0].Digest != want {
		return fmt.Errorf("skopeo copied %v, published is %s", index.Manifests, want)
	}
	d.out.say("copied %s, the published digest", short(manifest.File.SHA256))
	return nil
}

func short(digest artifact.SHA256) string { return digest.OCI()[:len("sha256:")+16] + "…" }

package cli

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/sources"
	"github.com/flotilla-fleet/flotilla/sources/git"
)

// sourceFlags are the flags that say where the fleet repository is, and how its server is talked to.
// Every command that reads the repository has all of them; docs/sources.md explains them once.
type sourceFlags struct {
	config sources.Config
	mode   string
}

const defaultBranch = "main"

// add defines the flags but for --repo, whose default differs.
func (f *sourceFlags) add(cmd *cobra.Command) {
	flags, c := cmd.Flags(), &f.config
	flags.StringVar(&c.Ref.Branch, "branch", defaultBranch, "branch to follow; with --commit: the branch to look for it in")
	flags.StringVar(&c.Ref.Tag, "tag", "", "tag to follow, instead of a branch")
	flags.StringVar(&c.Ref.SemVer, "semver", "", "range of versions, such as '>=1.2 <2': the highest tag in it is followed")
	flags.StringVar(&c.Ref.Commit, "commit", "", "stay at this commit: its whole hash")
	flags.StringVar(&c.Ref.Name, "ref", "", "any other ref to follow, by its full name, such as refs/pull/1/head")
	flags.StringVar(&c.Path, "path", "", "directory of the fleet inside of the repository (default: its root)")
	flags.StringVar(&c.CredentialsFile, "credentials", "",
		"credentials of the repository: a file with a token, or with lines username=… and password=…, or bearer=…; or a directory like a mounted Secret")
	flags.StringArrayVar(&c.SSHKeys, "ssh-key", nil, "file with a private SSH key; may be given more than once")
	flags.StringArrayVar(&c.KnownHosts, "known-hosts", nil, "file with the keys of SSH servers, as ssh-keyscan prints them; may be given more than once")
	flags.StringVar(&c.CAFile, "git-ca-file", "", "certificate authorities to trust for the repository")
	flags.StringVar(&c.CertFile, "git-cert-file", "", "client certificate for the repository's server")
	flags.StringVar(&c.KeyFile, "git-key-file", "", "key of the client certificate")
	flags.StringVar(&c.Proxy, "proxy", "", "proxy to the repository: http://…, https://… or socks5://… (default: for https as the environment says)")
	flags.StringArrayVar(&c.Verify.KeyFiles, "verify-keys", nil,
		"file or directory with OpenPGP or SSH public keys: what none of them signed is refused; may be given more than once")
	flags.StringVar(&f.mode, "verify", "", "what must be signed: commit, tag or both (default with --verify-keys: commit)")
}

// resolved is the configuration that the flags make.
func (f *sourceFlags) resolved(cmd *cobra.Command) (sources.Config, error) {
	c := f.config
	c.Verify.Mode = git.Mode(f.mode)
	c.Path = cleanPath(c.Path)
	given := 0
	for _, name := range []string{"branch", "tag", "semver", "commit", "ref"} {
		if cmd.Flags().Changed(name) {
			given++
		}
	}
	withBranch := cmd.Flags().Changed("branch") && cmd.Flags().Changed("commit")
	if given > 2 || given == 2 && !withBranch {
		return c, usagef("only one of --branch, --tag, --semver, --commit and --ref may be given%s", seeHelp(cmd))
	}
	if c.Ref.Tag != "" || c.Ref.SemVer != "" || c.Ref.Name != "" {
		c.Ref.Branch = "" // the default
	}
	return c, nil
}

// cleanPath takes what people write around a directory of the repository.
func cleanPath(path string) string {
	path = strings.TrimSuffix(strings.TrimPrefix(path, "./"), "/")
	if path == "." {
		return ""
	}
	return path
}

// repository holds the flags that choose a snapshot.
type repository struct {
	sourceFlags
	revision string
}

func (f *repository) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config.URL, "repo", ".", "fleet repository: a directory (read as it is on disk) or a URL")
	cmd.Flags().StringVar(&f.revision, "revision", "", "commit, branch or tag to look at; needed to read a directory's commits rather than its files")
	f.add(cmd)
}

// onDisk reports whether the files of a directory are meant, and not its commits.
func (f *repository) onDisk() bool {
	info, err := os.Stat(f.config.URL)
	r := f.config.Ref
	r.Branch = ""
	return err == nil && info.IsDir() && f.revision == "" && r == (git.Ref{}) && len(f.config.Verify.KeyFiles) == 0 && f.mode == ""
}

// open opens the repository's commits, with a mirror that lasts as long. The function it returns ends both.
func (f *repository) open(cmd *cobra.Command, log *slog.Logger) (sources.Source, func(), error) {
	nothing := func() {}
	c, err := f.resolved(cmd)
	if err != nil {
		return nil, nothing, err
	}
	// A person at a terminal has the files of OpenSSH; an agent has only what it is given.
	if info, err := os.Stat(c.CredentialsFile); err != nil || !info.IsDir() {
		if len(c.SSHKeys) == 0 {
			c.SSHKeys = git.DefaultSSHKeys()
		}
		if len(c.KnownHosts) == 0 {
			c.KnownHosts = git.DefaultKnownHosts()
		}
	}
	c.Log = log
	if c.Dir, err = os.MkdirTemp("", "flotilla-"); err != nil {
		return nil, nothing, err
	}
	remove := func() { _ = os.RemoveAll(c.Dir) }
	src, err := sources.Open(c)
	if err != nil {
		remove()
		return nil, nothing, err
	}
	return src, func() { _ = src.Close(); remove() }, nil
}

// snapshot reads the repository. The function it returns frees what was read.
func (f *repository) snapshot(cmd *cobra.Command, log *slog.Logger) (api.Snapshot, func(), error) {
	if f.onDisk() {
		return f.files(cmd.Context())
	}
	nothing := func() {}
	src, done, err := f.open(cmd, log)
	if err != nil {
		return api.Snapshot{}, nothing, err
	}
	snap, err := src.Fetch(cmd.Context())
	if err == nil && f.revision != "" {
		snap, err = src.At(cmd.Context(), f.revision)
	}
	if err != nil {
		done()
		return api.Snapshot{}, nothing, err
	}
	return snap, done, nil
}

// files reads a directory as it is on disk.
func (f *repository) files(ctx context.Context) (api.Snapshot, func(), error) {
	c := f.config
	c.Files, c.Path = true, cleanPath(c.Path)
	src, err := sources.Open(c)
	if err != nil {
		return api.Snapshot{}, func() {}, err
	}
	snap, err := src.Fetch(ctx)
	return snap, func() { _ = src.Close() }, err
}

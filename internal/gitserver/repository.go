package gitserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Environment is what git runs with: a path to find itself,
// and nothing of the configuration of the machine or of its user.
func Environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + os.DevNull,
		"LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_TERMINAL_PROMPT=0",
		// The repositories may belong to another user than the one who serves them.
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}
}

// DefaultBranch is the branch of a new repository.
const DefaultBranch = "main"

// Create makes an empty bare repository below the root that accepts pushes.
// Creating one that is there already does nothing.
func (s *Server) Create(ctx context.Context, repo string) error {
	return Init(ctx, s.Dir(repo))
}

// Init makes an empty bare repository in dir that accepts pushes over HTTP.
func Init(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := Git(ctx, dir, "init", "--quiet", "--bare", "--initial-branch="+DefaultBranch, "."); err != nil {
		return err
	}
	_, err := Git(ctx, dir, "config", "http.receivepack", "true")
	return err
}

// Git runs git in a directory and returns what it printed.
func Git(ctx context.Context, dir string, args ...string) (string, error) {
	return run(ctx, dir, nil, args...)
}

func run(ctx context.Context, dir string, input []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, Environment(), bytes.NewReader(input)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(problems.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// Commit is one commit to make.
type Commit struct {
	// Branch gets the commit. Empty means DefaultBranch.
	Branch string
	// Message is the commit's message. Empty means "change".
	Message string
	// Author is "Name <address>". Empty means a made-up one.
	Author string
	// Time is when it is made. Zero means now.
	Time time.Time
	// Write holds the content of files by path; the rest stays as it is.
	Write map[string]string
	// Link holds the targets of symbolic links by path.
	Link map[string]string
	// Submodule holds commits of other repositories by path.
	Submodule map[string]string
	// Delete names files and directories that go.
	Delete []string
	// Parent is what the commit follows. Empty means the branch as it is.
	Parent Parent
}

// Parent says what a commit follows.
type Parent string

// ParentNone makes a commit without a parent: the branch begins anew, and its history is lost.
// Any other value than this and "" is a commit's hash or a branch's name.
const ParentNone Parent = "none"

// Do adds the commit to a bare repository and returns its hash.
// It writes to the object store directly, so a commit of many thousand files takes a moment only.
func (c Commit) Do(ctx context.Context, dir string) (string, error) {
	branch := c.Branch
	if branch == "" {
		branch = DefaultBranch
	}
	ref := "refs/heads/" + branch
	stream, err := c.stream(ctx, dir, ref)
	if err != nil {
		return "", err
	}
	if _, err := run(ctx, dir, stream, "fast-import", "--quiet", "--force"); err != nil {
		return "", err
	}
	return Git(ctx, dir, "rev-parse", ref)
}

// stream is the commit in git's fast-import format.
func (c Commit) stream(ctx context.Context, dir, ref string) ([]byte, error) {
	author, message, when := c.Author, c.Message, c.Time
	if author == "" {
		author = "Fleet Author <author@example.com>"
	}
	if message == "" {
		message = "change"
	}
	if when.IsZero() {
		when = time.Now()
	}
	var b bytes.Buffer
	if c.Parent == ParentNone {
		fmt.Fprintf(&b, "reset %s\n\n", ref)
	}
	fmt.Fprintf(&b, "commit %s\nauthor %s %d +0000\ncommitter %s %d +0000\n", ref, author, when.Unix(), author, when.Unix())
	data(&b, message)
	switch c.Parent {
	case ParentNone:
	case "":
		if _, err := Git(ctx, dir, "rev-parse", "--verify", "--quiet", ref); err == nil {
			fmt.Fprintf(&b, "from %s^0\n", ref)
		}
	default:
		hash, err := Git(ctx, dir, "rev-parse", "--verify", string(c.Parent)+"^0")
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "from %s\n", hash)
	}
	for _, p := range c.Delete {
		fmt.Fprintf(&b, "D %s\n", p)
	}
	for _, p := range slices.Sorted(maps.Keys(c.Write)) {
		fmt.Fprintf(&b, "M 100644 inline %s\n", p)
		data(&b, c.Write[p])
	}
	for _, p := range slices.Sorted(maps.Keys(c.Link)) {
		fmt.Fprintf(&b, "M 120000 inline %s\n", p)
		data(&b, c.Link[p])
	}
	for _, p := range slices.Sorted(maps.Keys(c.Submodule)) {
		fmt.Fprintf(&b, "M 160000 %s %s\n", c.Submodule[p], p)
	}
	b.WriteString("\ndone\n")
	return b.Bytes(), nil
}

func data(b *bytes.Buffer, content string) {
	fmt.Fprintf(b, "data %d\n%s\n", len(content), content)
}

// Import makes one commit of all the files of a directory tree, on the default branch.
// Symbolic links and what lies below ".git" are left out.
func (s *Server) Import(ctx context.Context, repo string, tree fs.FS, message string) (string, error) {
	if err := s.Create(ctx, repo); err != nil {
		return "", err
	}
	commit := Commit{Message: message, Write: map[string]string{}}
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == ".git":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		content, err := fs.ReadFile(tree, p)
		commit.Write[p] = string(content)
		return err
	})
	if err != nil {
		return "", err
	}
	if len(commit.Write) == 0 {
		return "", errors.New("nothing to import")
	}
	return commit.Do(ctx, s.Dir(repo))
}

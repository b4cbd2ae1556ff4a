package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
)

func newHubBackup() *cobra.Command {
	var (
		hub hubFlags
		dir string
	)
	cmd := &cobra.Command{
		Use:   "backup FILE (--hub URL | --dir DIR)",
		Short: "Copy the hub's store, also while the hub runs",
		Long: `Write a copy of the hub's store to FILE: as it is at one moment, and checked before it takes FILE's place.

A hub that runs is asked with --hub and an admin's token. Of one that is stopped, --dir names its directory.
Do not copy hub.db itself while the hub runs: such a copy can be damaged.

The copy holds the key of the hub's certificate authority: keep it as you keep a password.`,
		Example: `  flotilla hub backup hub-2030-01-31.db --hub https://hub.example.com
  flotilla hub backup hub.db --dir /var/lib/flotilla-hub`,
		Args: oneArg("FILE", "where to write the copy"),
	}
	hub.flags(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "directory of a hub that is stopped")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from := func(w *os.File) error { return backupOf(cmd.Context(), dir, w) }
		if dir == "" {
			c, err := hub.client()
			if err != nil {
				return err
			}
			if c == nil {
				return usageError{errors.New("--hub is needed, or --dir of a hub that is stopped")}
			}
			from = func(w *os.File) error { return c.download(cmd.Context(), "/api/v1/backup", w) }
		}
		size, err := writeBackup(args[0], from)
		if err != nil {
			return err
		}
		errOf(cmd).Printf("wrote %s, %d bytes\n", args[0], size)
		return nil
	}
	return cmd
}

// writeBackup has a copy written beside a file, opens it to check it, and then puts it in the file's place.
func writeBackup(file string, from func(*os.File) error) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ignoreMissing(os.Remove(f.Name()))) }()
	err = from(f)
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	st, err := store.Open(store.Config{Path: f.Name()})
	if err != nil {
		return 0, fmt.Errorf("the copy is not sound, and was not kept: %w", err)
	}
	if err := st.Close(); err != nil {
		return 0, err
	}
	return size, os.Rename(f.Name(), file)
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// backupOf copies the store of a hub that is stopped.
func backupOf(ctx context.Context, dir string, w io.Writer) (err error) {
	path := filepath.Join(dir, "hub.db")
	if _, err := os.Stat(path); err != nil {
		return usageError{fmt.Errorf("--dir %q is no hub's directory: %w", dir, err)}
	}
	st, err := store.Open(store.Config{Path: path})
	if errors.Is(err, store.ErrLocked) {
		return &api.Error{Kind: api.Waiting, Reason: "HubRuns", Err: err, Hint: "the hub runs: ask it with --hub"}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return st.Backup(ctx, func(int64) (io.Writer, error) { return w, nil })
}

// download writes what the hub answers to w, however long it is.
func (c *hubClient) download(ctx context.Context, path string, w io.ReaderFrom) error {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	hc := *c.http
	hc.Timeout = 0
	res, err := hc.Do(req)
	if err != nil {
		return &api.Error{Kind: api.Transient, Reason: "HubUnreachable", Err: fmt.Errorf("ask the hub: %w", err)}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil {
			return err
		}
		return hubError(res.StatusCode, b)
	}
	n, err := w.ReadFrom(res.Body)
	if err == nil && n != res.ContentLength {
		err = fmt.Errorf("%d bytes came of %d", n, res.ContentLength)
	}
	if err != nil {
		return &api.Error{Kind: api.Transient, Reason: "HubUnreachable", Err: fmt.Errorf("read the hub's answer: %w", err)}
	}
	return nil
}

package adopt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Write makes the change in the checkout that it was planned for.
// If anything there is not as it was, nothing is written; what was begun and fails is taken back.
func (p Plan) Write(dir string) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, f := range p.Files {
		if err := unchanged(root, f); err != nil {
			return err
		}
	}
	var done []File
	defer func() {
		if err == nil {
			return
		}
		for _, f := range done {
			err = errors.Join(err, takeBack(root, f))
		}
	}()
	for _, f := range p.Files {
		if err := put(root, f.Name, f.After); err != nil {
			return fmt.Errorf("write %q: %w", f.Name, err)
		}
		done = append(done, f)
	}
	return nil
}

func unchanged(root *os.Root, f File) error {
	info, err := root.Lstat(f.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && f.Before == nil:
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%q is not an ordinary file", f.Name)
	}
	now, err := root.ReadFile(f.Name)
	if err == nil && (f.Before == nil || !bytes.Equal(now, f.Before)) {
		err = fmt.Errorf("%q was changed in the meantime", f.Name)
	}
	return err
}

func takeBack(root *os.Root, f File) error {
	if f.Before == nil {
		return root.Remove(f.Name)
	}
	return put(root, f.Name, f.Before)
}

// put replaces a file as one, and keeps its mode.
func put(root *os.Root, name string, data []byte) error {
	mode := fs.FileMode(0o644)
	if info, err := root.Stat(name); err == nil {
		mode = info.Mode().Perm()
	}
	fresh := name + ".adopt"
	if err := root.WriteFile(fresh, data, mode); err != nil {
		return err
	}
	if err := root.Rename(fresh, name); err != nil {
		return errors.Join(err, root.Remove(fresh))
	}
	return nil
}

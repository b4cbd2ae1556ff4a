package archtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// listed is the part of the output of "go list -json" that is used here.
type listed struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	Deps         []string
}

// Load reads all packages of the module whose go.mod is in dir.
// A package that does not compile is read as far as it goes: the compiler complains about it elsewhere.
func Load(ctx context.Context, dir string) ([]Package, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-json=ImportPath,Dir,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, stderr.Bytes())
	}
	var all []Package
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := decoder.Decode(&l); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		p, err := l.read()
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}

func (l listed) read() (Package, error) {
	p := Package{
		Path:    strings.TrimPrefix(strings.TrimPrefix(l.ImportPath, module), "/"),
		Imports: l.Imports,
		Deps:    l.Deps,
	}
	files := append(l.GoFiles, l.CgoFiles...)
	if len(files) == 0 {
		// A package of tests only is documented in one of them.
		files = append(l.TestGoFiles, l.XTestGoFiles...)
	}
	for _, name := range files {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(l.Dir, name), nil, parser.ParseComments)
		if file == nil {
			return p, err
		}
		if file.Doc.Text() != "" {
			p.Docs = append(p.Docs, name)
		}
		for _, use := range clockUses(fset, file) {
			p.Clock = append(p.Clock, fmt.Sprintf("%s/%s:%s", p.Path, name, use))
		}
	}
	return p, nil
}

// clock names what makes a package depend on when it runs; types and constants of package time do not.
var clock = map[string]bool{
	"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true,
	"NewTimer": true, "NewTicker": true, "Tick": true,
}

func clockUses(fset *token.FileSet, file *ast.File) []string {
	name := importName(file, "time")
	if name == "" {
		return nil
	}
	var uses []string
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == name && clock[sel.Sel.Name] {
			uses = append(uses, fmt.Sprintf("%d: time.%s", fset.Position(sel.Pos()).Line, sel.Sel.Name))
		}
		return true
	})
	return uses
}

// importName returns the name that a file gives to an import, or "".
func importName(file *ast.File, path string) string {
	for _, imp := range file.Imports {
		if got, err := strconv.Unquote(imp.Path.Value); err != nil || got != path {
			continue
		}
		if imp.Name != nil {
			return imp.Name.Name
		}
		return path
	}
	return ""
}

package main

import (
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/audit/publish"
	"github.com/session-revoker/session-revoker/config"
)

// logFiles has the flags of commands that read the audit log.
type logFiles struct {
	keyFiles []string
}

const logFilesHelp = `The audit log is audit.file of the settings and the operators' file next to it,
or the FILEs: list rotated files in their order, oldest first, and those of
every replica; - is standard input. The files name people also with
log.hash_users.`

func (l *logFiles) flags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&l.keyFiles, "key-file", nil,
		"file with the key of the records (default: audit.key_file); repeat it for each key that was used")
}

// open returns how to open the log, and the names of its files. The caller must call close.
func (l *logFiles) open(p *program, cfg config.Config, names []string) (log openLog, options audit.Options, err error) {
	keys := l.keyFiles
	if len(names) == 0 {
		if names, err = configuredLog(p, cfg); err != nil {
			return openLog{}, options, err
		}
		if len(keys) == 0 && cfg.Audit.KeyFile != "" {
			keys = []string{cfg.Audit.KeyFile}
		}
	}
	if options, err = verifyOptions(keys, ""); err != nil {
		return openLog{}, options, fail(exitUsage, "%v", err)
	}
	log, err = newOpenLog(p.stdin, names)
	return log, options, err
}

// configuredLog returns the files of the settings that exist.
func configuredLog(p *program, cfg config.Config) ([]string, error) {
	name := cfg.Audit.File
	if name == "" || name == "-" {
		return nil, fail(exitUsage, "name the files of the audit log: audit.file of the settings names none")
	}
	names := []string{name}
	if _, err := os.Stat(publish.OperatorFile(name)); err == nil {
		names = append(names, publish.OperatorFile(name))
	} else {
		p.notice("%s cannot be read, so what operators' commands did is not included: %v", publish.OperatorFile(name), rootCause(err))
	}
	return names, nil
}

// rootCause returns the error below the one that repeats the name of the file.
func rootCause(err error) error {
	if below := errors.Unwrap(err); below != nil {
		return below
	}
	return err
}

// openLog is an audit log in one or several files, each as long as it was when it was opened: a
// worker may be writing to it.
type openLog struct {
	files []*os.File
	sizes []int64 // -1 for what is no regular file
}

// newOpenLog opens the files. Standard input is copied into a temporary file, so that it can be read
// several times.
func newOpenLog(stdin io.Reader, names []string) (log openLog, err error) {
	defer func() {
		if err != nil {
			log.close()
			err = fail(exitUsage, "%v", err)
		}
	}()
	for _, name := range names {
		var file *os.File
		if name == "-" {
			file, err = spool(stdin)
		} else {
			file, err = os.Open(name) //nolint:gosec // the operator names the file
		}
		if err != nil {
			return log, err
		}
		log.files = append(log.files, file)
		info, err := file.Stat()
		switch {
		case err != nil:
			return log, err
		case info.IsDir():
			return log, errors.New(name + " is a directory: name the files in it")
		case info.Mode()&os.ModeDevice != 0 && name != "-": // some have no end
			return log, errors.New(name + " is a device: name a file, a pipe, or -")
		case !info.Mode().IsRegular(): // a pipe
			copied, err := spool(file)
			if err != nil {
				return log, err
			}
			_ = file.Close()
			log.files[len(log.files)-1] = copied
			if info, err = copied.Stat(); err != nil {
				return log, err
			}
		}
		log.sizes = append(log.sizes, info.Size())
	}
	return log, nil
}

// spool copies everything into a temporary file that is gone when it is closed.
func spool(from io.Reader) (*os.File, error) {
	file, err := os.CreateTemp("", "audit-*.ndjson")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(file.Name()) // where an open file cannot be removed, the system's cleaning does it
	if _, err := io.Copy(file, from); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// reader returns a reader of the whole log. A file whose last line has no end does not run into the
// next file.
func (l openLog) reader() io.Reader {
	var readers []io.Reader
	for i, file := range l.files {
		readers = append(readers, io.NewSectionReader(file, 0, l.sizes[i]), strings.NewReader("\n"))
	}
	return io.MultiReader(readers[:max(0, len(readers)-1)]...)
}

// open implements history.Open.
func (l openLog) open() (io.ReadCloser, error) { return io.NopCloser(l.reader()), nil }

var _ history.Open = openLog{}.open

func (l openLog) close() {
	for _, file := range l.files {
		_ = file.Close()
	}
}

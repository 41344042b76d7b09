// Package console is the operators' web page: whether people are being signed out, dead letters and
// what to do about them, one person's history, and a report.
//
// It shows what Operations tells, and changes nothing by itself: a change is previewed, confirmed by
// typing what the preview says, and then made by Operations. Pages are made on the server and work
// without a script. The package knows nothing of connections to Service Bus or Graph.
package console

import (
	"context"
	"embed"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/audit/report"
)

// Config configures a Console.
type Config struct {
	// Operations is the deployment.
	Operations Operations
	// Access says who may see the pages.
	Access Access
	// ReadOnly refuses every change.
	ReadOnly bool
	// Replicas are the operations ports of workers, such as http://10.0.0.1:9090.
	Replicas []string
	// Ingests are the operations ports of worker ingest, which know when each sender was last heard.
	Ingests []string
	// Client asks the replicas. The default is http.DefaultClient.
	Client *http.Client
	// Version is shown at the foot of each page.
	Version string

	now func() time.Time // for tests
}

// Console serves the pages. It is safe for concurrent use.
type Console struct {
	Config
	access  *gate
	letters *snapshots
	changes *changes
	workers *sampler
	handler http.Handler
}

// New returns a Console. Run must run while it serves.
func New(cfg Config) (*Console, error) {
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.Client == nil {
		cfg.Client = http.DefaultClient
	}
	access, err := newGate(cfg.Access, cfg.now)
	if err != nil {
		return nil, err
	}
	workers, err := newSampler(cfg.Replicas, cfg.Ingests, cfg.Client, cfg.Operations.Queues, cfg.now)
	if err != nil {
		return nil, err
	}
	c := &Console{
		Config: cfg, access: access, letters: newSnapshots(cfg.Operations, cfg.now), workers: workers,
		changes: newChanges(cfg.now),
	}
	c.handler = c.routes()
	return c, nil
}

// Link returns the address of the first page with a new one-time token, below the address at which
// the console listens. It is valid for 15 minutes, and once. Behind a proxy, there is none.
func (c *Console) Link(address net.Addr) string { return c.access.link(address) }

// Run reads dead letters and asks the replicas in the background until ctx ends. Then it waits for
// the changes that were confirmed to stop, as they do when a command is stopped: what is in flight
// is finished, and the rest stays where it is.
func (c *Console) Run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { c.letters.run(ctx) })
	group.Go(func() { c.workers.run(ctx) })
	group.Go(func() { c.workers.runQueues(ctx) })
	group.Go(func() { c.changes.run(ctx) })
	group.Wait()
}

// ServeHTTP implements http.Handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.handler.ServeHTTP(w, r) }

// Serve answers requests on l, and runs the console, until ctx ends.
func (c *Console) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler: c, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(l)
		cancel()
	}()
	c.Run(ctx)
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer stop()
	err := server.Shutdown(closing)
	if err != nil {
		err = server.Close()
	}
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// closeTimeout limits how long requests may take to end when the console stops.
const closeTimeout = 3 * time.Second

//go:embed assets
var assets embed.FS

// maxForm limits the body of a request. A form with an edited body of maxEdit bytes fits, even if
// each byte is escaped.
const maxForm = 3*maxEdit + 64<<10

// longest is how long an answer may take: a preview peeks at all dead letters, and a report reads
// the whole audit log.
const longest = 10 * time.Minute

// takeTime lets an answer to somebody who is signed in take long.
func takeTime(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(longest)) // not supported by what tests use
}

func (c *Console) routes() http.Handler {
	pages := http.NewServeMux()
	get := func(path string, page func(http.ResponseWriter, *http.Request, visitor)) {
		pages.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			takeTime(w)
			page(w, r, visitorOf(r))
		})
	}
	post := func(path string, act func(http.ResponseWriter, *http.Request, visitor)) {
		pages.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			who := visitorOf(r)
			if c.ReadOnly {
				c.problem(w, r, http.StatusForbidden, "This console only shows",
					"Nothing was changed: the console was started without --allow-changes.")
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if err := r.ParseForm(); err != nil {
				c.problem(w, r, http.StatusRequestEntityTooLarge, "Too large",
					"The form cannot be read, or is larger than the console accepts.")
				return
			}
			takeTime(w)
			act(w, r, who)
		})
	}
	get("/{$}", c.nowPage)
	get("/dead-letters", c.lettersPage)
	get("/dead-letters/{source}/{sequence}", c.letterPage)
	get("/dead-letters/{source}/{sequence}/edit", c.editPage)
	post("/dead-letters/{source}/{sequence}/edit", c.previewEdit)
	post("/replay", c.previewReplay)
	post("/purge", c.previewPurge)
	get("/guard", c.guardPage)
	post("/guard", c.previewRelease)
	get("/changes", c.changesPage)
	get("/changes/{id}", c.changePage)
	post("/changes/{id}", c.confirmChange)
	get("/people", c.peoplePage)
	get("/report", c.reportPage)
	get("/report.csv", c.reportFile("csv", "text/csv; charset=utf-8", func(r report.Report, w io.Writer) error { return r.WriteCSV(w) }))
	get("/report.html", c.reportFile("html", "text/html; charset=utf-8", func(r report.Report, w io.Writer) error {
		return r.WriteHTML(w, c.now())
	}))
	pages.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.problem(w, r, http.StatusNotFound, "No such page", "There is nothing at this address.")
	})

	open := http.NewServeMux()
	open.Handle("GET /assets/", http.HandlerFunc(serveAsset))
	open.HandleFunc("GET /enter", c.enter)
	open.Handle("/", c.access.admit(pages, c))
	return secure(c.access.sameSite(open, c))
}

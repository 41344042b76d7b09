package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/console"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/sanitizer"
	bus "github.com/session-revoker/session-revoker/servicebus"
)

// desk is a console in this process, with the embedded Service Bus, and an operator's browser.
type desk struct {
	t      *testing.T
	broker *servicebus.Broker
	client *azservicebus.Client
	cfg    config.Config
	dir    string
	url    string
	http   *http.Client
	stop   func() // stops the console and waits for its end; pages are served on
}

const deskQueue = "events"

func newDesk(t *testing.T, o consoleOptions) *desk {
	t.Helper()
	d := &desk{t: t, dir: t.TempDir()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	d.broker, err = servicebus.New(servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: deskQueue, LockDuration: time.Minute, MaxDeliveryCount: 100}},
		Keys:   []servicebus.Key{servicebus.DefaultKey},
	})
	must(err)
	amqp, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	go func() { _ = d.broker.Serve(amqp) }()
	connection := servicebus.ConnectionString(amqp.Addr().String(), servicebus.DefaultKey)
	flags := pflag.NewFlagSet("worker", pflag.ContinueOnError)
	config.Flags(flags)
	d.cfg, err = config.Load(flags, []string{
		"REVOKER_SERVICEBUS_CONNECTION_STRING=" + connection, "REVOKER_SERVICEBUS_QUEUE=" + deskQueue,
		"REVOKER_GRAPH_TENANT_ID=00000000-0000-4000-8000-000000000000", "REVOKER_GRAPH_CLIENT_ID=client",
		"REVOKER_GRAPH_CLIENT_SECRET=secret",
		"REVOKER_AUDIT_FILE=" + filepath.Join(d.dir, "audit.ndjson"), "REVOKER_GUARD_RELEASE_FILE=" + filepath.Join(d.dir, "release.json"),
		"REVOKER_OPS_ADDRESS=127.0.0.1:0",
	})
	must(err)
	d.client, err = azservicebus.NewClientFromConnectionString(connection, nil)
	must(err)

	t.Cleanup(func() {
		_ = d.client.Close(context.Background())
		_ = d.broker.Close()
	})
	d.serve(o)
	return d
}

// serve serves a console, and signs in.
func (d *desk) serve(o consoleOptions) {
	d.t.Helper()
	o.exports, o.maxReplays = d.dir, 3
	if o.by == "" {
		o.by = "grace@contoso.com"
	}
	p := &program{stdin: strings.NewReader(""), stdout: io.Discard, stderr: safe{io.Discard}}
	settings, err := o.settings(p, d.cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	operations := newOperations(p, d.cfg, o)
	settings.Operations = operations
	page, err := console.New(settings)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		page.Run(ctx)
		close(ran)
	}()
	d.stop = func() {
		cancel()
		<-ran
	}
	server := httptest.NewServer(page)
	d.url = server.URL
	jar, _ := cookiejar.New(nil)
	d.http = &http.Client{Jar: jar}
	d.t.Cleanup(func() {
		cancel()
		<-ran
		server.Close()
		operations.close()
	})
	d.get(200, strings.TrimPrefix(page.Link(server.Listener.Addr()), d.url))
}

// deadLetter sends a message with a body and dead-letters it.
func (d *desk) deadLetter(body, reason string) {
	d.t.Helper()
	d.deadLetterAll([]string{body}, reason)
}

func (d *desk) deadLetterAll(bodies []string, reason string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must := func(err error) {
		d.t.Helper()
		if err != nil {
			d.t.Fatal(err)
		}
	}
	sender, err := d.client.NewSender(deskQueue, nil)
	must(err)
	defer sender.Close(ctx)
	batch, err := sender.NewMessageBatch(ctx, nil)
	must(err)
	for _, body := range bodies {
		must(batch.AddMessage(&azservicebus.Message{Body: []byte(body)}, nil))
	}
	must(sender.SendMessageBatch(ctx, batch, nil))
	receiver, err := d.client.NewReceiverForQueue(deskQueue, nil)
	must(err)
	defer receiver.Close(ctx)
	for left := len(bodies); left > 0; {
		messages, err := receiver.ReceiveMessages(ctx, left, nil)
		must(err)
		for _, m := range messages {
			left--
			must(receiver.DeadLetterMessage(ctx, m, &azservicebus.DeadLetterOptions{
				Reason:           &reason,
				ErrorDescription: new("because of that"),
			}))
		}
	}
}

// deadLetters makes n dead letters.
func (d *desk) deadLetters(n int) {
	d.t.Helper()
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = lost(i)
	}
	d.deadLetterAll(bodies, "RetriesExhausted")
}

func (d *desk) answer(code int, response *http.Response, err error) string {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode != code {
		d.t.Errorf("%s: %d, want %d\n%s", response.Request.URL, response.StatusCode, code, text)
	}
	return string(text)
}

func (d *desk) get(code int, path string) string {
	d.t.Helper()
	response, err := d.http.Get(d.url + path)
	return d.answer(code, response, err)
}

// post sends a form, as the console's own pages do. It returns where that leads.
func (d *desk) post(code int, path string, form url.Values) (at, page string) {
	d.t.Helper()
	r, _ := http.NewRequest(http.MethodPost, d.url+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", d.url)
	response, err := d.http.Do(r)
	page = d.answer(code, response, err)
	return response.Request.URL.Path, page
}

// confirm confirms a preview and waits for the end of the change.
func (d *desk) confirm(at, typed string) string {
	d.t.Helper()
	d.post(200, at, url.Values{"confirm": {typed}, "why": {"a test"}})
	return d.until(at, "Done.", "Not everything")
}

// until waits until a page has one of the texts.
func (d *desk) until(path string, texts ...string) string {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		page := d.get(200, path)
		for _, text := range texts {
			if strings.Contains(page, text) {
				return page
			}
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s has none of %q:\n%s", path, texts, page)
		}
	}
}

func (d *desk) counts(active, dead int) {
	d.t.Helper()
	counts, err := d.broker.Counts(deskQueue)
	if err != nil {
		d.t.Fatal(err)
	}
	if counts.Active != active || counts.DeadLetter != dead {
		d.t.Errorf("%d messages and %d dead letters, want %d and %d", counts.Active, counts.DeadLetter, active, dead)
	}
}

// records returns what the operators' audit log has of each command: who, why, and the outcome.
func (d *desk) records() (list []string) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "audit-operators.ndjson"))
	if err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var entry struct {
			Record struct{ Operation *audit.Operation }
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			d.t.Fatal(err)
		}
		if o := entry.Record.Operation; o != nil {
			list = append(list, fmt.Sprintf("%s %s %d by %s: %s", o.Command, o.Outcome, o.Count, o.By, o.Why))
		}
	}
	return list
}

func person(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }

func lost(i int) string { return fmt.Sprintf(`{"type":"device.lost","userId":%q}`, person(i)) }

func TestConsoleReplaysWhatWasPreviewed(t *testing.T) {
	t.Parallel()
	d := newDesk(t, consoleOptions{rate: 0})
	d.deadLetters(3)
	d.deadLetter(lost(3), "UserNotFound")
	d.until("/dead-letters", "4 in all")
	at, page := d.post(200, "/replay", url.Values{"reason": {"RetriesExhausted"}})
	if !strings.Contains(page, "3 dead letters of events will be sent to events again.") || !strings.Contains(page, person(0)) {
		t.Error(page)
	}
	d.deadLetter(lost(4), "RetriesExhausted") // too late
	d.post(409, at, url.Values{"confirm": {"4"}})
	d.counts(0, 5)
	if page := d.confirm(at, "3"); !strings.Contains(page, "3</span> sent again") {
		t.Error(page)
	}
	d.counts(3, 2)
	d.until(at, "3</span> waiting or in flight")
	d.until("/dead-letters", "2 in all")
	d.until("/", `data-label="Wait or in flight">3<`)
	want := []string{"dlq replay started 3 by grace@contoso.com: a test", "dlq replay done 3 by grace@contoso.com: a test"}
	if got := d.records(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("audit log: %q", got)
	}
}

func TestConsoleStoppedInTheMiddleOfAReplayLosesNothing(t *testing.T) {
	t.Parallel()
	d := newDesk(t, consoleOptions{rate: 25}) // five at once
	const n = 400
	d.deadLetters(n)
	at, _ := d.post(200, "/replay", url.Values{"reason": {"RetriesExhausted"}})
	d.post(200, at, url.Values{"confirm": {strconv.Itoa(n)}})
	var some []string
	for i := 1; i < n; i++ {
		some = append(some, fmt.Sprintf(">%d of %d", i, n))
	}
	d.until(at, some...)
	d.stop()               // long before the end
	page := d.get(200, at) // still served, as while the console stops
	counts, err := d.broker.Counts(deskQueue)
	if err != nil || counts.Active+counts.DeadLetter != n || counts.Active == n || counts.Active == 0 {
		t.Errorf("%v, %+v\n%s", err, counts, page)
	}
	if !strings.Contains(page, "Not everything was done") || !strings.Contains(page, fmt.Sprintf("%d</span> still there",
		counts.DeadLetter)) {
		t.Error(page)
	}
	if got := d.records(); len(got) != 2 {
		t.Errorf("audit log: %q", got)
	}
	d.serve(consoleOptions{}) // and go on: the locks are free
	at, _ = d.post(200, "/replay", url.Values{"reason": {"RetriesExhausted"}})
	d.confirm(at, strconv.Itoa(counts.DeadLetter))
	d.counts(n, 0)
}

// 500 dead letters for three reasons: replay two of them, and purge the third.
func TestConsoleEndsANightInSixActions(t *testing.T) {
	t.Parallel()
	d := newDesk(t, consoleOptions{rate: 1000})
	actions := 0
	act := func(what, reason string, n int) {
		t.Helper()
		at, _ := d.post(200, what, url.Values{"reason": {reason}})
		d.confirm(at, strconv.Itoa(n))
		actions += 2
	}
	letters := func(n int) (bodies []string) {
		for i := range n {
			bodies = append(bodies, lost(i))
		}
		return bodies
	}
	d.deadLetterAll(letters(300), "RetriesExhausted")
	d.deadLetterAll(letters(150), "Forbidden")
	d.deadLetterAll(letters(50), "UserNotFound")
	d.until("/dead-letters", "500 in all")
	act("/replay", "RetriesExhausted", 300)
	act("/replay", "Forbidden", 150)
	act("/purge", "UserNotFound", 50)
	d.counts(450, 0)
	if actions > 6 {
		t.Errorf("%d actions", actions)
	}
}

func TestConsolesOfTwoOperatorsSendNothingTwice(t *testing.T) {
	t.Parallel()
	d := newDesk(t, consoleOptions{by: "ada", rate: 100})
	const n = 40
	d.deadLetters(n)
	ada := *d
	atAda, _ := ada.post(200, "/replay", url.Values{"reason": {"RetriesExhausted"}})
	d.serve(consoleOptions{by: "grace"})
	at, _ := d.post(200, "/replay", url.Values{"reason": {"RetriesExhausted"}})
	ada.post(200, atAda, url.Values{"confirm": {strconv.Itoa(n)}})
	d.post(200, at, url.Values{"confirm": {strconv.Itoa(n)}})
	ada.until(atAda, "Done.", "Not everything")
	d.until(at, "Done.", "Not everything")
	d.counts(n, 0)
}

func TestConsolePurgesAfterWritingAFile(t *testing.T) {
	t.Parallel()
	d := newDesk(t, consoleOptions{})
	d.deadLetterAll([]string{lost(0), lost(1), lost(2)}, "UserNotFound")
	stale, _ := d.post(200, "/purge", url.Values{"reason": {"UserNotFound"}})
	at, _ := d.post(200, "/purge", url.Values{"seq": {"1,2"}})
	if page := d.confirm(at, "2"); !strings.Contains(page, "2</span> removed") {
		t.Error(page)
	}
	d.counts(0, 1)
	files, _ := filepath.Glob(filepath.Join(d.dir, "deadletters-*.ndjson"))
	if len(files) != 1 {
		t.Fatalf("files: %v", files)
	}
	text, err := os.ReadFile(files[0])
	if err != nil || strings.Count(string(text), "\n") != 2 || !strings.Contains(string(text), person(1)) {
		t.Errorf("%v: %s", err, text)
	}
	// Two of the three that were previewed are gone since.
	if page := d.confirm(stale, "3"); !strings.Contains(page, "1</span> removed") ||
		!strings.Contains(page, "2</span> removed by someone else") {
		t.Error(page)
	}
	d.counts(0, 0)
	if got := d.records(); len(got) != 4 || !strings.HasPrefix(got[2], "dlq purge started 3") {
		t.Errorf("audit log: %q", got)
	}
}

func TestConsoleSendsAnEditedMessage(t *testing.T) {
	t.Parallel()
	d := newDesk(t, consoleOptions{})
	d.deadLetter(`{"type":"device.lost","userid":"`+person(1)+`"}`, "InvalidEvent")
	d.until("/dead-letters", "/dead-letters/events/1")
	letter := d.get(200, "/dead-letters/events/1")
	if !strings.Contains(letter, "because of that") || !strings.Contains(letter, "fix the event") {
		t.Error(letter)
	}
	body := html(regexp.MustCompile(`(?s)<textarea[^>]*>\n(.*)</textarea>`).FindStringSubmatch(d.get(200,
		"/dead-letters/events/1/edit"))[1])
	if _, page := d.post(200, "/dead-letters/events/1/edit", url.Values{"body": {body}}); !strings.Contains(page, "signs nobody out") ||
		!strings.Contains(page, "There is none") {
		t.Error(page)
	}
	at, page := d.post(200, "/dead-letters/events/1/edit", url.Values{"body": {strings.Replace(body, "userid", "userId", 1)}})
	if !strings.Contains(page, `<del class="row">-   &#34;userid`) || !strings.Contains(page, "would_revoke: "+person(1)) {
		t.Error(page)
	}
	d.post(409, at, url.Values{"confirm": {"2"}})
	d.confirm(at, "1")
	d.counts(1, 0)
	ctx := context.Background()
	receiver, err := d.client.NewReceiverForQueue(deskQueue, nil)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := receiver.PeekMessages(ctx, 1, nil)
	if err != nil || string(messages[0].Body) != lost(1) {
		t.Fatalf("%v, %s", err, messages[0].Body)
	}
	if by := messages[0].ApplicationProperties["revoker-replayed-by"]; by != "grace@contoso.com" {
		t.Errorf("by %v", by)
	}
	if got := d.records(); len(got) != 2 || got[1] != "dlq edit done 1 by grace@contoso.com: a test" {
		t.Errorf("audit log: %q", got)
	}
	d.get(404, "/dead-letters/events/1")
}

// html undoes the escapes of a page.
func html(text string) string {
	return strings.NewReplacer("&#34;", `"`, "&#39;", "'", "&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(text)
}

func TestConsoleReleasesTheGuard(t *testing.T) {
	d := newDesk(t, consoleOptions{})
	form := url.Values{"type": {"user.offboarded"}, "max": {"5000"}, "minutes": {"60"}, "reason": {"site closes"}}
	at, page := d.post(200, "/guard", form)
	if !strings.Contains(page, "Up to 5000 people may be signed out for user.offboarded until") {
		t.Error(page)
	}
	d.post(409, at, url.Values{"confirm": {"500"}})
	d.confirm(at, "5000")
	text, err := os.ReadFile(filepath.Join(d.dir, "release.json"))
	if err != nil || !strings.Contains(string(text), `"by": "grace@contoso.com"`) || !strings.Contains(string(text), `"maxUsers": 5000`) {
		t.Errorf("%v: %s", err, text)
	}
	if got := d.records(); len(got) != 2 || !strings.HasPrefix(got[1], "guard release done") {
		t.Errorf("audit log: %q", got)
	}
}

func TestConsoleDoesNothingThatCannotBeRecorded(t *testing.T) {
	d := newDesk(t, consoleOptions{})
	d.deadLetter(lost(1), "UserNotFound")
	at, _ := d.post(200, "/purge", url.Values{"reason": {"UserNotFound"}})
	if err := os.Mkdir(filepath.Join(d.dir, "audit-operators.ndjson"), 0o700); err != nil { // no file can be there
		t.Fatal(err)
	}
	if page := d.confirm(at, "1"); !strings.Contains(page, "could not be recorded") {
		t.Error(page)
	}
	d.counts(0, 1)
}

func TestConsoleReadsTheAuditLog(t *testing.T) {
	d := newDesk(t, consoleOptions{})
	if page := d.get(200, "/people?user="+person(1)); !strings.Contains(page, "no such file") {
		t.Error(page)
	}
	log, err := audit.Open(filepath.Join(d.dir, "audit.ndjson"), audit.Key{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	decision := audit.Decision{
		Time: now, Outcome: "revoked", EventType: "device.lost", UserID: person(1), Source: deskQueue, SequenceNumber: 7, Calls: 1,
		Enqueued: now.Add(-3 * time.Second), CallStart: now.Add(-time.Second), CallEnd: now,
	}
	if _, err := log.Write(decision); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if page := d.get(200, "/people?user="+person(1)); !strings.Contains(page, "Yes: ") || !strings.Contains(page, "Graph confirmed") {
		t.Error(page)
	}
	if page := d.get(200, "/report?target=5m"); !strings.Contains(page, "100.0 %") {
		t.Error(page)
	}
	for _, file := range []string{"/report.csv", "/report.html"} {
		if page := d.get(200, file+"?target=1s"); !strings.Contains(page, person(1)) {
			t.Errorf("%s: %s", file, page)
		}
	}
	if page := d.get(200, "/"); !strings.Contains(page, "no worker was named") {
		t.Error(page)
	}
}

func TestConsoleRefusesAddressesWithoutSignIn(t *testing.T) {
	for _, o := range []consoleOptions{
		{address: "0.0.0.0:0"}, {address: ":0"}, {address: "192.0.2.1:80"}, {address: "example.com:80"}, {address: "nonsense"},
	} {
		if l, err := o.listen(t.Context()); err == nil {
			l.Close()
			t.Errorf("listens on %s", o.address)
		}
	}
	for _, o := range []consoleOptions{
		{allowChanges: true, maxReplays: 3},
		{
			header: "X-User", proxies: []string{"everybody"},
			maxReplays: 3,
		},
		{header: "X-User", proxies: []string{"0.0.0.0/0"}, maxReplays: 3},
	} {
		if _, err := o.settings(&program{}, config.Config{}); err == nil {
			t.Errorf("accepts %+v", o)
		}
	}
}

// A replay that leaves out what cannot be read is not done, as on the command line.
func TestConsoleSaysThatALetterCannotBeRead(t *testing.T) {
	d := newDesk(t, consoleOptions{rate: 0})
	d.deadLetters(2)
	const unreadable = "\x00\x53\x77\xc1\x07\x02\x00\xa3\x01\x78\x45\x40" // a value with a map that is cut off
	if err := d.broker.Inject(deskQueue, []byte(unreadable)); err != nil {
		t.Fatal(err)
	}
	client, err := azservicebus.NewClientFromConnectionString(d.cfg.ServiceBus.ConnectionString, &azservicebus.ClientOptions{
		NewWebSocketConn: sanitizer.New(sanitizer.Options{}).Over(bus.Dialer{Plain: true}.Dial),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	receiver, err := client.NewReceiverForQueue(deskQueue, nil)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := receiver.ReceiveMessages(t.Context(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	why := &azservicebus.DeadLetterOptions{Reason: new("RetriesExhausted")}
	if err := receiver.DeadLetterMessage(t.Context(), messages[0], why); err != nil {
		t.Fatal(err)
	}
	d.until("/dead-letters", "3 in all")
	at, _ := d.post(200, "/replay", url.Values{"reason": {"RetriesExhausted"}})
	if page := d.confirm(at, "2"); !strings.Contains(page, "Not replayed: 1 dead letter with an unreadable body") {
		t.Errorf("the page does not say that a letter was left out:\n%s", page)
	}
}

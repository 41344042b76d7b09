package servicebus_test

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// documents sends whole documents to the administration API.
type documents struct {
	t   *testing.T
	web *httptest.Server
}

func newDocuments(t *testing.T, cfg servicebus.Config) (*servicebus.Broker, documents) {
	t.Helper()
	broker, err := servicebus.New(cfg)
	must(t, err)
	web := httptest.NewServer(broker.Admin())
	t.Cleanup(func() {
		web.Close()
		_ = broker.Close()
	})
	return broker, documents{t, web}
}

// send returns the status and the body of the answer.
func (d documents) send(method, path, body string, update bool) (int, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.web.URL+"/"+path, strings.NewReader(body))
	must(d.t, err)
	r.Header.Set("Authorization", sign(d.web.URL, time.Now().Add(time.Hour)))
	if update {
		r.Header.Set("If-Match", "*")
	}
	response, err := d.web.Client().Do(r)
	must(d.t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	must(d.t, err)
	return response.StatusCode, string(answer)
}

// want fails unless the answer has the status and contains all of the texts.
func (d documents) want(status int, method, path, body string, texts ...string) string {
	d.t.Helper()
	got, answer := d.send(method, path, body, false)
	if got != status {
		d.t.Errorf("%s %s: status %d, want %d: %s", method, path, got, status, answer)
	}
	for _, text := range texts {
		if !strings.Contains(answer, text) {
			d.t.Errorf("%s %s: no %q in %s", method, path, text, answer)
		}
	}
	return answer
}

func oneTopic(subscriptions ...servicebus.SubscriptionConfig) servicebus.Config {
	return servicebus.Config{Topics: []servicebus.TopicConfig{{
		QueueConfig: servicebus.QueueConfig{Name: "t"}, Subscriptions: subscriptions,
	}}}
}

const (
	nsAtom    = `http://www.w3.org/2005/Atom`
	nsConnect = `http://schemas.microsoft.com/netservices/2010/10/servicebus/connect`
	nsXSI     = `http://www.w3.org/2001/XMLSchema-instance`
	nsXS      = `http://www.w3.org/2001/XMLSchema`
)

// The same rule, as several clients write it.
func TestAdminReadsNamespacesWhereverTheyAreDeclared(t *testing.T) {
	for name, body := range map[string]string{
		"on the root, with prefixes for everything": `<?xml version="1.0" encoding="utf-8"?>
			<ns0:entry xmlns:ns0="` + nsAtom + `" xmlns:ns1="` + nsConnect + `" xmlns:xsi="` + nsXSI + `" xmlns:d6p1="` + nsXS + `">
			<ns0:content type="application/xml"><ns1:RuleDescription><ns1:Filter xsi:type="SqlFilter">
			<ns1:SqlExpression>color = @c AND n &gt; @n</ns1:SqlExpression><ns1:Parameters>
			<ns1:KeyValueOfstringanyType><ns1:Key>@c</ns1:Key>
			<ns1:Value xsi:type="d6p1:string">red</ns1:Value></ns1:KeyValueOfstringanyType>
			<ns1:KeyValueOfstringanyType><ns1:Key>@n</ns1:Key><ns1:Value xsi:type="d6p1:int">1</ns1:Value></ns1:KeyValueOfstringanyType>
			</ns1:Parameters></ns1:Filter><ns1:Action xsi:type="SqlRuleAction"><ns1:SqlExpression>SET n = 5</ns1:SqlExpression></ns1:Action>
			<ns1:Name>r</ns1:Name></ns1:RuleDescription></ns0:content></ns0:entry>`,
		"on the filter, as JavaScript": `<entry xmlns="` + nsAtom + `"><updated>2026-11-29T00:00:00Z</updated>
			<content type="application/xml">
			<RuleDescription xmlns="` + nsConnect + `" xmlns:i="` + nsXSI + `"><Filter p4:type="SqlFilter" xmlns:p4="` + nsXSI + `">
			<SqlExpression>color = @c AND n &gt; @n</SqlExpression><Parameters>
			<KeyValueOfstringanyType><Key>@c</Key><Value p4:type="l28:string" xmlns:l28="` + nsXS + `">red</Value></KeyValueOfstringanyType>
			<KeyValueOfstringanyType><Key>@n</Key><Value p4:type="l28:int" xmlns:l28="` + nsXS + `">1</Value></KeyValueOfstringanyType>
			</Parameters></Filter><Action p4:type="SqlRuleAction" xmlns:p4="` + nsXSI + `"><SqlExpression>SET n = 5</SqlExpression></Action>
			<Name>r</Name></RuleDescription></content></entry>`,
		"on the value, with a prefixed type": `<entry xmlns="` + nsAtom + `" xmlns:x="` + nsXSI + `" xmlns:sb="` + nsConnect + `">
			<content><sb:RuleDescription><sb:Name>r</sb:Name>
			<sb:Action x:type="sb:SqlRuleAction"><sb:SqlExpression>SET n = 5</sb:SqlExpression></sb:Action>
			<sb:Filter x:type="sb:SqlFilter"><sb:Parameters>
			<sb:KeyValueOfstringanyType><sb:Key>@c</sb:Key><sb:Value x:type="string">red</sb:Value></sb:KeyValueOfstringanyType>
			<sb:KeyValueOfstringanyType><sb:Key>@n</sb:Key>
			<sb:Value x:type="any:int" xmlns:any="` + nsXS + `"> 1 </sb:Value></sb:KeyValueOfstringanyType>
			</sb:Parameters><sb:SqlExpression>color = @c AND n &gt; @n</sb:SqlExpression></sb:Filter>
			</sb:RuleDescription></content></entry>`,
	} {
		t.Run(name, func(t *testing.T) {
			_, d := newDocuments(t, oneTopic(subscription("s")))
			d.want(http.StatusCreated, http.MethodPut, "t/Subscriptions/s/Rules/r", body)
			d.want(http.StatusOK, http.MethodGet, "t/Subscriptions/s/Rules/r", "",
				`<Filter i:type="SqlFilter"><SqlExpression>color = @c AND n &gt; @n</SqlExpression>`,
				`<Key>@c</Key><Value i:type="d6p1:string" xmlns:d6p1="`+nsXS+`">red</Value>`,
				`<Key>@n</Key><Value i:type="d6p1:int" xmlns:d6p1="`+nsXS+`">1</Value>`,
				`<Action i:type="SqlRuleAction"><SqlExpression>SET n = 5</SqlExpression>`)
		})
	}
}

// ruleDocument returns a document with a filter and an action, which may be empty.
func ruleDocument(inner string) string {
	return `<entry xmlns="` + nsAtom + `" xmlns:i="` + nsXSI + `" xmlns:x="` + nsXS + `"><content><RuleDescription xmlns="` + nsConnect +
		`">` +
		inner + `</RuleDescription></content></entry>`
}

func TestAdminNamesWhatItDoesNotUnderstand(t *testing.T) {
	_, d := newDocuments(t, oneTopic(subscription("s")))
	value := func(schemaType, text string) string {
		return ruleDocument(`<Filter i:type="CorrelationFilter"><Properties><KeyValueOfstringanyType><Key>k</Key><Value i:type="` +
			schemaType +
			`">` + text + `</Value></KeyValueOfstringanyType></Properties></Filter>`)
	}
	deep := strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100)
	for body, want := range map[string]string{
		ruleDocument(`<Filter i:type="RegexFilter"><SqlExpression>1=1</SqlExpression></Filter>`): `filter type "RegexFilter"`,
		ruleDocument(`<Filter><SqlExpression>color = 'red'</SqlExpression></Filter>`):            "the Filter has no type",
		ruleDocument(`<Filter type="SqlFilter"><SqlExpression>a=1</SqlExpression></Filter>`):     "the Filter has no type",
		ruleDocument(`<Filter i:type="SqlFilter"/>`):                                             "column 1: expected a property",
		ruleDocument(`<Filter i:type="CorrelationFilter"/>`):                                     "must compare at least one property",
		ruleDocument(`<Action i:type="ShellAction"><SqlExpression>x</SqlExpression></Action>`):   `action type "ShellAction"`,
		ruleDocument(`<Action><SqlExpression>SET a = 1</SqlExpression></Action>`):                "the Action has no type",
		ruleDocument(`<Action i:type="SqlRuleAction"/>`):                                         "expected SET or REMOVE",
		value("x:int", "12345678901"):                                                            "value out of range",
		value("x:int", "many"):                                                                   "invalid syntax",
		value("x:dateTime", "noon"):                                                              "noon",
		value("x:base64Binary", "AA=="):                                                          `the type "x:base64Binary"`,
		ruleDocument(deep):                                                                       "nested more than 32 deep",
		`<entry xmlns="` + nsAtom + `"><content/></entry>`:                                       "one content with one element",
		`<entry xmlns="` + nsAtom + `"><content><a/><b/></content></entry>`:                      "one content with one element",
		`<entry xmlns="` + nsAtom + `"><content>`:                                                "not an Atom entry",
		`<feed xmlns="` + nsAtom + `"/>`:                                                         "not an Atom entry",
		``:                                                                                       "not an Atom entry",
		ruleDocument(strings.Repeat("<Name>a</Name>", 20_000)):                                   "more than 262144 bytes",
	} {
		d.want(http.StatusBadRequest, http.MethodPut, "t/Subscriptions/s/Rules/r", body, want)
	}
	if answer := d.want(http.StatusOK, http.MethodGet, "t/Subscriptions/s/Rules", ""); strings.Contains(answer, "/Rules/r?") {
		t.Errorf("a rule was created: %s", answer)
	}
	// A rule without a filter selects everything, as in the service.
	d.want(http.StatusCreated, http.MethodPut, "t/Subscriptions/s/Rules/r", ruleDocument(""), `<Filter i:type="TrueFilter">`)
}

func TestAdminReturnsTheValuesThatItReads(t *testing.T) {
	_, d := newDocuments(t, oneTopic(subscription("s")))
	for i, c := range []struct{ schemaType, text, want string }{
		{"string", "a &lt; 'b' \"c\"", `i:type="d6p1:string" xmlns:d6p1="` + nsXS + `">a &lt; &apos;b&apos; &quot;c&quot;`},
		{"int", "-7", `i:type="d6p1:int" xmlns:d6p1="` + nsXS + `">-7`},
		{"long", "7", `i:type="d6p1:int" xmlns:d6p1="` + nsXS + `">7`}, // which more clients know
		{"long", "12345678901", `i:type="d6p1:long" xmlns:d6p1="` + nsXS + `">12345678901`},
		{"unsignedLong", "18446744073709551615", `i:type="d6p1:unsignedLong" xmlns:d6p1="` + nsXS + `">18446744073709551615`},
		{"unsignedByte", "255", `i:type="d6p1:int" xmlns:d6p1="` + nsXS + `">255`},
		{"double", "1.5", `i:type="d6p1:double" xmlns:d6p1="` + nsXS + `">1.5`},
		{"boolean", "TRUE", `i:type="d6p1:boolean" xmlns:d6p1="` + nsXS + `">true`},
		{"dateTime", "2026-11-29T01:00:00+01:00", `i:type="d6p1:dateTime" xmlns:d6p1="` + nsXS + `">2026-11-29T00:00:00Z`},
		{"duration", "-PT1H30M", `i:type="d6p1:duration" xmlns:d6p1="` + nsXS + `">-PT1H30M`},
		{
			"guid", "{0102030405060708090A0B0C0D0E0F10}",
			`i:type="d6p1:guid" xmlns:d6p1="http://schemas.microsoft.com/2003/10/Serialization/">01020304-0506-0708-090a-0b0c0d0e0f10`,
		},
		{"duration", "PT0S", `i:type="d6p1:duration" xmlns:d6p1="` + nsXS + `">PT0S`},
	} {
		d.want(http.StatusCreated, http.MethodPut, fmt.Sprintf("t/Subscriptions/s/Rules/r%d", i), ruleDocument(
			`<Filter i:type="CorrelationFilter"><Properties><KeyValueOfstringanyType><Key>k</Key>`+
				`<Value i:type="x:`+c.schemaType+`">`+c.text+
				`</Value></KeyValueOfstringanyType></Properties></Filter>`), "<Value "+c.want+"</Value>")
	}
}

var nextLink = regexp.MustCompile(`<link rel="next" href="https://[^/]*/([^"]*)"`)

// The clients for Java, JavaScript and Python follow the link.
func TestAdminFeedsLinkToTheNextPage(t *testing.T) {
	var filters []rule.Filter
	for range 7 {
		filters = append(filters, rule.True{})
	}
	cfg := oneTopic(subscription("s0", filters...))
	for i := range 7 {
		cfg.Queues = append(cfg.Queues, servicebus.QueueConfig{Name: fmt.Sprintf("q%d", i)})
		if i > 0 {
			cfg.Topics = append(cfg.Topics, servicebus.TopicConfig{QueueConfig: servicebus.QueueConfig{Name: fmt.Sprintf("t%d", i)}})
			cfg.Topics[0].Subscriptions = append(cfg.Topics[0].Subscriptions, subscription(fmt.Sprintf("s%d", i)))
		}
	}
	_, d := newDocuments(t, cfg)
	for _, path := range []string{"$Resources/Queues", "$Resources/Topics", "t/Subscriptions", "t/Subscriptions/s0/Rules"} {
		pages, titles := 0, map[string]bool{}
		for next := path + "?$skip=0&$top=3&api-version=2017-04"; next != ""; pages++ {
			answer := d.want(http.StatusOK, http.MethodGet, next, "", "api-version=2017-04", `<link rel="self"`)
			var feed struct {
				Titles []string `xml:"entry>title"`
			}
			must(t, xml.Unmarshal([]byte(answer), &feed))
			for _, title := range feed.Titles {
				titles[title] = true
			}
			next = ""
			if found := nextLink.FindStringSubmatch(answer); found != nil {
				next = strings.ReplaceAll(found[1], "&amp;", "&")
			}
		}
		if pages != 3 || len(titles) != 7 {
			t.Errorf("%s: %d entries in %d pages", path, len(titles), pages)
		}
		d.want(http.StatusBadRequest, http.MethodGet, path+"?$skip=-1", "", "$skip must be a number")
		if answer := d.want(http.StatusOK, http.MethodGet, path+"?$skip=100", ""); nextLink.MatchString(answer) {
			t.Errorf("%s: an empty page has a next one: %s", path, answer)
		}
	}
}

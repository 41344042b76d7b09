package mapping_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event/mapping"
)

// trap checks one case of a preset. Each way in which a producer can lead to the wrong person, or to
// no incident, has a test of its own here, so that a failure says what went wrong.
func trap(t *testing.T, preset, name string) {
	t.Helper()
	cases := presetCases(t, preset)
	i := slices.IndexFunc(cases, func(c presetCase) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("%s has no case %q", preset, name)
	}
	cases[i].check(t)
}

func TestOktaActorIsNeverTheUser(t *testing.T) {
	trap(t, "okta", "a suspension names the target and not the administrator")
	trap(t, "okta", "without a target the actor is not the user")
}

func TestOktaActorIsTheVictimOfTwoEvents(t *testing.T) {
	trap(t, "okta", "the victim of a breached credential is the actor")
}

func TestOktaOrdinaryLogoutIsNoIncident(t *testing.T) {
	trap(t, "okta", "one message holds several users")
}

func TestOktaOnlySuccessCounts(t *testing.T) { trap(t, "okta", "only success counts") }

func TestOktaFallingRiskIsNoTrigger(t *testing.T) {
	trap(t, "okta", "only a risk that rises to HIGH counts")
}

func TestOktaThreatsAndDevicesNameNobody(t *testing.T) {
	trap(t, "okta", "what names nobody, or is no incident, signs nobody out")
}

func TestIntuneRemoteActionInitiatorIsNeverTheUser(t *testing.T) {
	trap(t, "intune", "a wipe names the device's owner and not the administrator")
	trap(t, "intune", "a list of actions")
}

func TestIntuneAuditAdministratorIsNeverTheUser(t *testing.T) {
	trap(t, "intune", "the audit log names the administrator and a device")
	trap(t, "intune", "the audit log's device is looked up")
	trap(t, "intune", "Graph's auditEvent")
}

func TestIntuneAuditNamesAreOfVariousCase(t *testing.T) {
	trap(t, "intune", "one record of the audit log, with other case and properties as text")
}

func TestIntuneDevicesLogIsNoTrigger(t *testing.T) {
	trap(t, "intune", "the inventory of devices")
	trap(t, "intune", "rows of the inventory from Log Analytics")
}

func TestJamfUsernameMayBeADisplayName(t *testing.T) {
	trap(t, "jamf-pro", "a device that left management, in snake_case with a display name")
}

func TestJamfCamelCaseAndMilliseconds(t *testing.T) {
	trap(t, "jamf-pro", "camelCase with an address")
}

func TestJamfLatin1(t *testing.T) { trap(t, "jamf-pro", "Latin-1") }
func TestJamfXML(t *testing.T)    { trap(t, "jamf-pro", "XML") }
func TestJamfAPIUserIsNeverTheUser(t *testing.T) {
	trap(t, "jamf-pro", "an API operation names the administrator")
}

func TestJamfSmartGroupHoldsOnlyNumbers(t *testing.T) {
	trap(t, "jamf-pro", "a smart group holds numbers of devices")
}

func TestWorkspaceOneEmptyUserIsNotGuessed(t *testing.T) {
	trap(t, "workspace-one", "an empty address is not guessed")
	trap(t, "workspace-one", "leaving management names no user")
}

func TestWorkspaceOneChangedDoesNotSayToWhat(t *testing.T) {
	trap(t, "workspace-one", "changed does not say to what")
	trap(t, "workspace-one", "changed to well")
}

func TestWorkspaceOneDateOfJavaScript(t *testing.T) {
	trap(t, "workspace-one", "an old version's wipe, with a date of JavaScript")
}

func TestWorkspaceOneSystemByteIsNoSerialNumber(t *testing.T) {
	trap(t, "workspace-one", "System.Byte[] is no serial number")
}

func TestWorkspaceOneXML(t *testing.T) { trap(t, "workspace-one", "XML") }

func TestFleetActorIsNeverTheUser(t *testing.T) {
	trap(t, "fleet", "a locked host names its administrator and no owner")
}

func TestFleetOnlyTheIdentityProvidersAccountCounts(t *testing.T) {
	trap(t, "fleet", "a relay adds the account of the identity provider")
	trap(t, "fleet", "other sources of an account are not believed")
}

func TestWorkdayPrivateAddressIsNeverTheUser(t *testing.T) {
	trap(t, "workday", "a private address is never the user")
}

func TestWorkdayDatesLieInTheFuture(t *testing.T) { trap(t, "workday", "leavers now and later") }
func TestWorkdayRehires(t *testing.T)             { trap(t, "workday", "people who were hired again") }

func TestWorkdayUnreadableDateIsNotNow(t *testing.T) {
	trap(t, "workday", "a date that cannot be read is not now")
}

func TestSuccessFactorsEntityKeysNameNoUser(t *testing.T) {
	trap(t, "successfactors", "a termination names entity keys")
}

func TestSuccessFactorsDateIsNeverTakenForNow(t *testing.T) {
	trap(t, "successfactors", "a date that cannot be read is not now")
	trap(t, "successfactors", "a termination without a date is not now")
}

func TestSuccessFactorsRehire(t *testing.T) { trap(t, "successfactors", "a rehire") }

func TestEntraUserUpdatedIsNoTrigger(t *testing.T) {
	trap(t, "eventgrid-entra-users", "UserUpdated fires for any change")
	trap(t, "graph-notifications", "deleted and updated users")
}

func TestLifecycleWorkflowManagerIsNotTheLeaver(t *testing.T) {
	trap(t, "entra-lifecycle-workflows", "the leaver and not their manager")
	trap(t, "entra-lifecycle-workflows", "a manager alone is nobody")
}

func TestSentinelAccountMayBeAnIDAlone(t *testing.T) {
	trap(t, "sentinel", "bare accounts")
	trap(t, "sentinel", "accounts of a playbook")
}

func TestDefenderRelatedUserIsNotTheVictim(t *testing.T) {
	trap(t, "defender", "only an impacted user is the victim")
	trap(t, "defender", "related evidence")
}

func TestDefenderAccountNameWithDomainIsNoUser(t *testing.T) {
	trap(t, "defender", "an alert of Defender for Endpoint")
}

func TestGoogleNotCompromisedIsNoTrigger(t *testing.T) {
	trap(t, "google", "a device that is well again")
}

func TestHiBobTriggeredByIsNeverTheUser(t *testing.T) {
	trap(t, "hr-webhooks", "HiBob names whoever did it")
}

func TestHandshakesAreNoTrigger(t *testing.T) {
	trap(t, "handshakes", "Event Grid's validation")
	trap(t, "handshakes", "Okta's verification")
}

// bystanders are the people in the cases who acted, and private addresses.
var bystanders = []string{
	"helpdesk@", "admin@", "analyst@", "hradmin@", "system@okta.com", "@home.example", "private@",
	"588d7c15-8565-448e-bc2d-57f2b7c4c5ff",
}

// Producers leave fields out. Whichever is missing, nobody may become the user who was not meant.
func TestPresetsNameNoBystanderWhateverIsMissing(t *testing.T) {
	decoders := []*mapping.Decoder{
		presetDecoder(t, mapping.Config{}), presetDecoder(t, mapping.Config{LookUpMail: true, ResolveDevices: true}),
	}
	tried := 0
	for _, preset := range mapping.Presets() {
		for _, c := range presetCases(t, preset) {
			for _, without := range withoutEach(c.Body) {
				m := c.message()
				m.Body = without.body
				for _, d := range decoders {
					tried++
					items, _ := d.Decode(m)
					for _, item := range items {
						name := item.Event.User.Name() + " " + item.Event.User.UPN()
						if slices.ContainsFunc(bystanders, func(b string) bool { return strings.Contains(name, b) }) {
							t.Errorf("%s, %s: without %s the user is %s", preset, c.Name, without.path, name)
						}
					}
				}
			}
		}
	}
	if tried < 1000 {
		t.Errorf("only %d messages were tried", tried)
	}
}

type reduced struct {
	path string
	body []byte
}

// withoutEach returns a JSON document without each of its members in turn. It returns nothing for
// XML.
func withoutEach(body string) []reduced {
	var document any
	if json.Unmarshal([]byte(body), &document) != nil {
		return nil
	}
	var all []reduced
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				value := v[name]
				delete(v, name)
				if text, err := json.Marshal(document); err == nil {
					all = append(all, reduced{path + "." + name, text})
				}
				v[name] = value
				walk(path+"."+name, value)
			}
		case []any:
			for i, value := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), value)
			}
		}
	}
	walk("body", document)
	return all
}

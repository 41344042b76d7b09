package mapping_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event"
)

// asUser is a file in which an expression names the user.
func asUser(expression, more string) string {
	return fmt.Sprintf("mappings:\n  - name: m\n    match: has(body.kind)\n    type: '\"device.lost\"'\n    user:\n      - name: %s\n%s",
		"|\n          "+expression, more)
}

func TestFieldsThatNameTheActorNeverNameTheUser(t *testing.T) {
	for _, expression := range []string{
		"body.actor.alternateId",
		"body.initiatedByUserPrincipalName",
		"body.INITIATEDBY",
		"body.Initiated_By.upn",
		`body["initiated-by"].upn`,
		`body["initiated by"].upn`,
		"body.?actor.?upn.orValue('')",
		`body[?"actor"].?upn.orValue("")`,
		`body.get("Actor").get("upn")`,
		`text(body.get("triggered_by"))`,
		"body.Actor.UPN",
		"body.identity",
		"body.subject.manager.email",
		"body.line_manager",
		"body.Mgr_ID",
		"body.authorizedUsername",
		"body.callerName",
		"body.lastModifiedBy.user",
		"body.sender",
		"body.eventActor.upn",
		"body.UPNActor",
		"body.people.filter(p, p.actor == 1).map(p, p.mail)",
		"body.people.map(p, p.actor.mail)",
		"[body.owner, body.actor.mail]",
		"body.x == 1 ? body.owner : body.actor.mail",
		`has(body.actor) ? body.actor : body.owner`,
		`json(body.text).actor.mail`,
		`{"a": body.actor}.a`,
		`"" + body.actor.mail`,
	} {
		problems := problemsOf(asUser(expression, ""))
		if !strings.Contains(problems, "allow_actor") || !strings.Contains(problems, "my.yaml:7:") {
			t.Errorf("%s: %s", expression, problems)
		}
		if problems := problemsOf(asUser(expression, "        allow_actor: true\n")); problems != "" {
			t.Errorf("%s with consent: %s", expression, problems)
		}
		if problems := problemsOf(asUser(expression, "    allow_actor: true\n")); problems != "" {
			t.Errorf("%s with the mapping's consent: %s", expression, problems)
		}
	}
}

func TestNamesThatAreNotConstantNeverNameTheUser(t *testing.T) {
	for _, expression := range []string{
		`body["act" + "or"].upn`,
		`body[body.which]`,
		`body[?body.which].orValue("")`,
		`body.get("act" + "or")`,
		`body.get(body.which)`,
		`body.map(k, body[k])[0]`,
		`body.people[size(body.people) - 1].mail`,
		`properties[subject]`,
	} {
		for _, consent := range []string{"", "        allow_actor: true\n"} {
			if problems := problemsOf(asUser(expression, consent)); !strings.Contains(problems, "not a constant") {
				t.Errorf("%s: %s", expression, problems)
			}
		}
	}
}

func TestPrivateAddressesNeverNameTheUser(t *testing.T) {
	for _, expression := range []string{
		`body["Email_-_Primary_Home"]`, "body.personalEmail", "body.private_mail", "body.homeEmail", "body.contact.personal",
		"body.recovery_email", "body.alternateEmail", "body.secondaryEmail", "body.otherMails",
	} {
		problems := problemsOf(asUser(expression, ""))
		if !strings.Contains(problems, "allow_private_mail") {
			t.Errorf("%s: %s", expression, problems)
		}
		if problems := problemsOf(asUser(expression, "        allow_actor: true\n")); problems == "" {
			t.Errorf("%s: another consent is not enough", expression)
		}
		if problems := problemsOf(asUser(expression, "        allow_private_mail: true\n")); problems != "" {
			t.Errorf("%s with consent: %s", expression, problems)
		}
	}
}

func TestOrdinaryFieldsNeedNoConsent(t *testing.T) {
	for _, expression := range []string{
		"body.deviceOwnerUserPrincipalName", "body.properties.UPN", "body.target[0].alternateId", "body.Email_Address",
		"body.EnrollmentEmailAddress", "body.isContractor.mail", "body.factory.user", "body.managedDevice.user", "body.management_id",
		"body.characteristics.name", "body.benefactor",
	} {
		if problems := problemsOf(asUser(expression, "")); problems != "" {
			t.Errorf("%s: %s", expression, problems)
		}
	}
}

func TestListOfEventsAndDevicesAreGuardedToo(t *testing.T) {
	for _, more := range []string{"    each: body.actors\n", "    device: {serial: body.actor.device}\n"} {
		if problems := problemsOf(asUser("body.owner", more)); !strings.Contains(problems, "allow_actor") {
			t.Errorf("%s: %s", more, problems)
		}
	}
	for _, more := range []string{"    reason: body.actor.name\n", "    source: body.actor.tenant\n"} {
		if problems := problemsOf(asUser("body.owner", more)); problems != "" {
			t.Errorf("what names nobody may read it: %s", problems)
		}
	}
}

func TestActorIsNotReadForTheUserEvenIfNothingElseIsThere(t *testing.T) {
	d := newDecoder(t, asUser("body.?owner", ""))
	item := decode(t, d, event.Message{Body: []byte(`{"kind":1,"actor":"admin@contoso.com","initiatedBy":"admin@contoso.com"}`)})
	if p := problemOf(t, item); p.Kind != event.OwnerUnclear {
		t.Error(p)
	}
}

// Grants the worker's identity the application permission User.RevokeSessions.All in Microsoft Graph.
// The assignment is the admin consent. The deployment needs the Entra role Privileged Role
// Administrator.
//
//   az deployment group create --resource-group RG --template-file deploy/azure/graph.bicep --parameters workerPrincipalId=…

extension microsoftGraphV1

@description('Object ID of the worker\'s identity: main.bicep\'s output workerPrincipalId.')
param workerPrincipalId string

resource graph 'Microsoft.Graph/servicePrincipals@v1.0' existing = {
  appId: '00000003-0000-0000-c000-000000000000'
}

resource mayRevoke 'Microsoft.Graph/appRoleAssignedTo@v1.0' = {
  resourceId: graph.id
  principalId: workerPrincipalId
  appRoleId: filter(graph.appRoles, role => role.value == 'User.RevokeSessions.All')[0].id
}

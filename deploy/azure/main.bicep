// The Azure resources of session-revoker: a Service Bus namespace with its queue, and one identity for
// each component that uses it, each with the least privilege. graph.bicep grants the worker's permission
// in Microsoft Graph, which needs an Entra role of its own.
//
//   az deployment group create --resource-group RG --template-file deploy/azure/main.bicep \
//     --parameters namespaceName=contoso-sessions oidcIssuerUrl="$(az aks show -g RG -n CLUSTER --query oidcIssuerProfile.issuerUrl -o tsv)"

@description('Name of the Service Bus namespace; globally unique.')
param namespaceName string

@description('Name of the queue that the worker receives from.')
param queueName string = 'session-events'

@description('Region of all resources.')
param location string = resourceGroup().location

@description('Standard is enough; Premium for private endpoints and customer-managed keys.')
@allowed(['Standard', 'Premium'])
param sku string = 'Standard'

@description('OIDC issuer of the cluster that the worker runs in. Empty: no federated credential.')
param oidcIssuerUrl string = ''

@description('Kubernetes namespace of the worker.')
param kubernetesNamespace string = 'session-revoker'

@description('Service account of the worker, as the Helm chart names it.')
param serviceAccount string = 'session-revoker'

@description('Object ID of the Entra group whose members list, show, and replay dead letters. Empty: nobody.')
param operatorGroupId string = ''

@description('Object IDs of the identities that publish events: MDM, HR, Event Grid.')
param producerIds array = []

@description('Let the worker send to its queue, which it needs to schedule events that take effect later.')
param schedule bool = false

@description('Create an identity for KEDA, which needs to read the length of the queue.')
param keda bool = false

// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/integration
var receiver = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0')
var sender = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39')
var owner = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '090c5cfd-751d-490a-894a-3ce6f1109419')

resource namespace 'Microsoft.ServiceBus/namespaces@2022-10-01-preview' = {
  name: namespaceName
  location: location
  sku: { name: sku, tier: sku }
  properties: {
    minimumTlsVersion: '1.2'
    // Identities only. Remove this if a producer supports nothing but a connection string.
    disableLocalAuth: true
  }
}

resource queue 'Microsoft.ServiceBus/namespaces/queues@2022-10-01-preview' = {
  parent: namespace
  name: queueName
  properties: {
    lockDuration: 'PT1M'
    // Each stop of a worker while Graph is down costs the messages in flight one delivery.
    maxDeliveryCount: 100
    // An expired message must become a dead letter, whether by the queue's time to live or its own:
    // otherwise events are lost without a trace.
    deadLetteringOnMessageExpiration: true
    defaultMessageTimeToLive: 'P14D'
    // Off: with it, whoever may send and guesses a MessageID silently suppresses the real event. The
    // worker deduplicates by user.
    requiresDuplicateDetection: false
    maxSizeInMegabytes: 5120
  }
}

resource worker 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'session-revoker'
  location: location
}

resource workerCredential 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = if (!empty(oidcIssuerUrl)) {
  parent: worker
  name: 'kubernetes'
  properties: {
    issuer: oidcIssuerUrl
    subject: 'system:serviceaccount:${kubernetesNamespace}:${serviceAccount}'
    audiences: ['api://AzureADTokenExchange']
  }
}

// The worker only receives and settles, unless it schedules events.
resource workerReceives 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: queue
  name: guid(queue.id, worker.id, receiver)
  properties: { roleDefinitionId: receiver, principalId: worker.properties.principalId, principalType: 'ServicePrincipal' }
}

resource workerSchedules 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (schedule) {
  scope: queue
  name: guid(queue.id, worker.id, sender)
  properties: { roleDefinitionId: sender, principalId: worker.properties.principalId, principalType: 'ServicePrincipal' }
}

// Operators receive dead letters and send them again.
resource operatorsReceive 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorGroupId)) {
  scope: queue
  name: guid(queue.id, operatorGroupId, receiver)
  properties: { roleDefinitionId: receiver, principalId: operatorGroupId, principalType: 'Group' }
}

resource operatorsSend 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorGroupId)) {
  scope: queue
  name: guid(queue.id, operatorGroupId, sender)
  properties: { roleDefinitionId: sender, principalId: operatorGroupId, principalType: 'Group' }
}

resource producersSend 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for id in producerIds: {
  scope: queue
  name: guid(queue.id, id, sender)
  properties: { roleDefinitionId: sender, principalId: id }
}]

// KEDA reads the queue's length through the administration API, for which Service Bus has no smaller
// role.
resource kedaIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = if (keda) {
  name: 'session-revoker-keda'
  location: location
}

resource kedaCredential 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = if (keda && !empty(oidcIssuerUrl)) {
  parent: kedaIdentity
  name: 'kubernetes'
  properties: {
    issuer: oidcIssuerUrl
    subject: 'system:serviceaccount:keda:keda-operator'
    audiences: ['api://AzureADTokenExchange']
  }
}

resource kedaReads 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (keda) {
  scope: queue
  name: guid(queue.id, 'session-revoker-keda', owner)
  properties: { roleDefinitionId: owner, principalId: keda ? kedaIdentity!.properties.principalId : '', principalType: 'ServicePrincipal' }
}

@description('For the chart: config.servicebus.namespace.')
output serviceBusNamespace string = '${namespaceName}.servicebus.windows.net'

@description('For the chart: workloadIdentity.clientId.')
output workerClientId string = worker.properties.clientId

@description('For graph.bicep: workerPrincipalId.')
output workerPrincipalId string = worker.properties.principalId

@description('For the chart: keda.identityId.')
output kedaClientId string = keda ? kedaIdentity!.properties.clientId : ''

// Package contract holds tests of the NATS server that Penstock is built
// with: each pins one behaviour that the design leans on, or defends against.
// Run them at every new version of nats-server or nats.go:
//
//	go get github.com/nats-io/nats-server/v2@… && make contract
//
// A test that fails here is a finding, not a flake: what changed has to be
// understood before the version is taken. There is no code here but tests.
//
// Who wrote what (an account with JetStream proves no author; where a
// configuration is shipped that makes up for it, the test of that is named):
//
//	T1   TestDirectGetStoresAForgedMessageOnAnothersSubject   broker.TestWorkerCannotSpeakForAnotherWorkerThroughJetStream
//	T1b  TestAcknowledgementIsStoredOnAnothersSubject         broker.TestForgedTaskIsNeverTaken, broker.TestPublisherCannotForgeAnotherSourcesEvent
//	T1c  TestConsumerReinjectsOnItsOwnSubjectOnly             broker.TestWorkerCannotSpeakForAnotherWorkerThroughJetStream
//	T2   TestScheduleStoresOnAnothersSubject                  TestShippedStreamsTakeNeitherSchedulesNorRollups
//	T3   TestSchedulesLetAnyPublisherWipeTheStream            TestShippedStreamsTakeNeitherSchedulesNorRollups, broker.TestWorkerCannotWipeArtifacts
//	T4   TestDuplicateIDMakesAnothersMessageVanish            broker.TestPoisonedDuplicateWindowLosesNoEvent
//	P1   TestServerNamesWhoAsksAcrossAccounts                 broker.TestRequestsNameWhoAskedAndCannotLie
//	P2   TestServerOverwritesWhatTheAskerClaims               broker.TestRequestsNameWhoAskedAndCannotLie
//	     TestUserInTheServersWordCanBeForged                  (so the author is the subject's token)
//	P3,4 TestNobodyReachesTheAPIBelowAnothersSubject          broker.TestNobodyAsksInAnothersName
//	     TestAccountWithoutJetStreamHasNoDeputy
//
// Conditions and batches (the fence, the record, the audit log, leases):
//
//	     TestFenceRefusesEverySingleOfAFormerOwner
//	     TestFenceRefusesTheWholeBatchOfAFormerOwner
//	T8   TestBatchIsStoredAsAWholeOrNotAtAll
//	     TestBatchWithoutItsEndLeavesNothing
//	     TestExpectedLastSequenceMakesATotalOrder
//	     TestPurgeKeepsTheLastRecordAndForgetsAWholeSubject
//	     TestDenyPurgeCannotBeTakenBack
//	     TestKeyIsReplacedByWhoKnowsItOnly
//
// Reading and tasks:
//
//	T6   TestConfirmedAcknowledgementIsNoFence
//	     TestFetchOnALimitsStreamDeliversUntilAcknowledged
//	     TestFetchDoesNotStallUnderLoad
//	     TestConsumerOfAReaderIsNumberedAndForgottenAtARestart
//	     TestOrderedConsumerGoesOnWithoutAGap
//	     TestLastPerSubjectGivesTheLastOfEachInOrder
//	     TestLastPerSubjectPassesOverWhatARequestDidNotGet
//	     TestRepublishCarriesTheSequence
//
// What is durable, and what a full or killed server does:
//
//	     TestSyncAlwaysSyncsBeforeItAnswers
//	T5   TestDuplicateWindowForgetsAcknowledgedMessagesAtARestart
//	T7   TestLameDuckModeOfAServerThatDoesNotListenDoesNothing
//	     TestLimitsRefuseWithACodeAndStoreNothing
//	p4   TestKilledServerKeepsMessagesAndForgetsConfirmedAcknowledgements
//	p4   TestLostTailTearsABatchAndReusesItsSequences
//	p7   TestFullDiskFreezesAStreamUntilARestart
//	p7   TestStoreLimitBelowTheDiskRefusesInsteadOfFreezing
//
// A cluster:
//
//	p6   TestClusterGoesOnWithoutTheStreamsLeader
//	     TestClusterTakesOneCommitUnderAFenceAtATime
//	     TestLeaderGivesEveryAcknowledgedMessage
//	     TestCutOffLeaderTakesAMessageAndRefusesTheNextUnderItsFence
//	     TestFormerLeaderRefusesWhatTheNewOneStores
//
// The speed of the server, which is probe 5, is what penstock bench measures
// as its floor. That the journal, the publisher and the reader make the best
// of all this is tested beside them.
package contract

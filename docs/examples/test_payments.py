"""Each order is charged once, whatever happens to the nodes meanwhile."""

import payments
import payments_fixed

from simulation.testing import Cluster, SimulatedCluster

ORDERS = [f"order-{number}" for number in range(10)]


class Bank:
    """As most payment services: a request whose idempotency key is known changes nothing."""

    def __init__(self) -> None:
        self.charged: list[str] = []
        self._keys: set[str] = set()

    async def charge(self, order: str, idempotency_key: str | None = None) -> None:
        if idempotency_key is not None:
            if idempotency_key in self._keys:
                return
            self._keys.add(idempotency_key)
        self.charged.append(order)


async def place_orders(cluster: Cluster) -> None:
    """Ten orders while the seed's faults strike; then all is healed and every hook is done."""
    async with cluster.chaos(seconds=5), cluster.client() as client:
        for order in ORDERS:
            await client.publish("orders.placed", b"", key=order)
            await cluster.sleep(0.3)
    await cluster.settle()


def test_each_order_is_charged_once(simulated_cluster: SimulatedCluster) -> None:
    bank = Bank()

    async def scenario(cluster: Cluster) -> None:
        await place_orders(cluster)
        cluster.assert_exactly_once("orders.placed", bank.charged)

    simulated_cluster.run(scenario, hooks=[payments], outside={"charge": bank.charge})


def test_each_order_is_charged_once_when_fixed(simulated_cluster: SimulatedCluster) -> None:
    bank = Bank()

    async def scenario(cluster: Cluster) -> None:
        await place_orders(cluster)
        cluster.assert_exactly_once("orders.placed", bank.charged)
        charged = [event.key for event in cluster.events("orders.charged")]
        cluster.assert_exactly_once("orders.placed", charged)

    simulated_cluster.run(scenario, hooks=[payments_fixed], outside={"charge": bank.charge})
